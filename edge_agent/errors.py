"""Everything that `edge_agent` raises.

AgentError                root; its text is one line: what happened, the value, what to do
├── BundleError           a bundle that will not be opened: hash, schema, path, link, missing or extra file
├── RuntimeUnavailable    the runtime that was asked for cannot run this bundle on this machine
├── InputError            a file or option of a command that cannot be used
├── DeployError           a bundle that cannot be put here, whatever is tried again
│   └── FetchBroken       files that did not come over the network: they may later
└── RequestError          a question that this engine cannot answer; carries the failure code
    └── ContextOverflow   prompt plus answer do not fit; carries the numbers
"""

from __future__ import annotations


class AgentError(Exception):
    """Root of all errors of this package."""


class BundleError(AgentError):
    """A bundle that must not be opened."""


class RuntimeUnavailable(AgentError):
    """The runtime cannot run this bundle here."""


class InputError(AgentError):
    """A file or option of a command that cannot be used."""


class DeployError(AgentError):
    """A bundle that cannot be put here; trying again would not help."""


class FetchBroken(DeployError):
    """Files that did not come over the network; they may later."""


class RequestError(AgentError):
    """A question that cannot be answered; `code` is the failure code its sender gets (`hub.wire.Code`)."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class ContextOverflow(RequestError):
    """Prompt and answer do not fit into the context."""

    def __init__(self, prompt_tokens: int, max_tokens: int, context: int) -> None:
        super().__init__(
            "too_large",
            f"{prompt_tokens} prompt tokens and {max_tokens} answer tokens do not fit into a context of "
            f"{context}: shorten the question, lower max_tokens, or serve with a larger --context",
        )
        self.prompt_tokens = prompt_tokens
        self.max_tokens = max_tokens
        self.context = context
