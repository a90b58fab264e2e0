"""Renders a model's chat template, which is a foreign program, within bounds that hold whatever it does.

The environment is what `transformers` gives such templates (immutable Jinja sandbox, `trim_blocks`,
`lstrip_blocks`, loop controls, `tojson` without HTML escapes, `raise_exception`, `strftime_now`), so the same
template gives the same prompt. The sandbox keeps a template from reaching Python; it does not keep it from
running forever or eating all memory. This does, and here is why:

1. Only listed syntax, filters and methods exist. None of them takes more than linear time and memory in the
   size of its operands, a size being the characters that printing the value would take.
2. Those that could give more than they take (`replace`, `join`, `*`, `tojson` with an indent) are
   charged for their result before it is computed.
3. Every value that is built, every piece of output, and every turn of a loop or macro is charged to one budget
   (`template_meter.py`); each charge also looks at the clock.

So no value is larger than the budget, and a render ends one bounded operation after either bound is reached.
One thread at a time. Knows nothing of tokens.
"""

from __future__ import annotations

import json
import string
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, NoReturn

from jinja2 import filters, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from edge_agent.errors import BundleError, RequestError
from edge_agent.template_meter import MAX_NESTING, BudgetSpent, Instrument, Meter, check_syntax, words

MAX_SOURCE_CHARS: Final = 256 * 1024
MAX_INDENT: Final = 8

_PLAIN_FILTERS: Final = words(
    "abs capitalize count d default dictsort e escape first float int last length list lower max min reverse round "
    "safe sort string title trim upper"
)
_LAZY_FILTERS: Final = words("items map reject rejectattr select selectattr unique")
_METHODS: Final[dict[type, frozenset[str]]] = {
    str: words(
        "capitalize casefold count endswith find format index isalnum isalpha isascii isdecimal isdigit islower "
        "isnumeric isspace istitle isupper join lower lstrip partition removeprefix removesuffix replace rfind "
        "rindex rpartition rsplit rstrip split splitlines startswith strip swapcase title upper"
    ),
    dict: frozenset(("get", "items", "keys", "values")),
    list: frozenset(("count", "index")),
    tuple: frozenset(("count", "index")),
    int: frozenset(),
    float: frozenset(),
    bytes: frozenset(),
}


class ChatTemplate:
    """A compiled chat template."""

    def __init__(self, source: str, where: str) -> None:
        """Compile `source`; `where` names it in errors. Raises BundleError for what is not taken."""
        if len(source) > MAX_SOURCE_CHARS:
            raise BundleError(f"{where}: {len(source)} characters of template, at most {MAX_SOURCE_CHARS} are taken")
        self._environment = _MeteredEnvironment()
        try:
            tree = self._environment.parse(source)
            check_syntax(tree)
            self._template = self._environment.from_string(Instrument().visit(tree))
        except Exception as error:  # the parser and Python's compiler raise much, RecursionError among it
            raise BundleError(f"{where}: this chat template is not taken: {_said(error)}") from None

    def render(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        bos_token: str | None,
        eos_token: str | None,
        add_generation_prompt: bool = True,
    ) -> str:
        """The prompt for a conversation of `{"role", "content"}` turns.

        Raises RequestError: `invalid` with the template's own words where it refuses the conversation,
        `too_large` beyond a bound, `internal` where the template fails.
        """
        self._environment.meter.restart()
        try:
            return self._template.render(
                messages=[dict(message) for message in messages],
                tools=None,
                documents=None,
                add_generation_prompt=add_generation_prompt,
                bos_token=bos_token or "",
                eos_token=eos_token or "",
            )
        except _Refused as error:
            raise RequestError("invalid", f"the model's chat template refuses this: {_said(error)}") from None
        except BudgetSpent as error:
            raise RequestError("too_large", f"the model's chat template was stopped: {error}") from None
        except Exception as error:  # a foreign program may raise anything
            raise RequestError("internal", f"the model's chat template failed: {_said(error)}") from None


class _Refused(Exception):
    """The template called `raise_exception`."""


def _said(error: Exception) -> str:
    return " ".join(f"{error}".split())[:300] or type(error).__name__


# --- the environment ------------------------------------------------------------------------------------


class _GenerationBlock(Extension):
    """`{% generation %}...{% endgeneration %}` marks training targets; here only its body matters."""

    tags = {"generation"}  # noqa: RUF012  # Jinja declares it so

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _MeteredEnvironment(ImmutableSandboxedEnvironment):
    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%"))

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # constant folding would compute outside of the meter
            extensions=[LoopControlExtension, _GenerationBlock],
        )
        self.meter = Meter()
        # `Instrument` calls these by name.
        self.charge, self.charge_slice = self.meter.charge, self.meter.charge_slice
        self.spend, self.toll = self.meter.spend, self.meter.toll
        self._own = (self.charge, self.charge_slice, self.spend, self.toll)
        self.globals = {
            "range": self.globals["range"],
            "dict": lambda **items: items,
            "namespace": _namespace,
            "raise_exception": _raise_exception,
            "strftime_now": _strftime_now,
        }
        self.filters = {
            **{name: filters.FILTERS[name] for name in _PLAIN_FILTERS},
            **{name: _eager(filters.FILTERS[name], self.meter) for name in _LAZY_FILTERS},
            "join": self._filter_join,
            "replace": self._filter_replace,
            "indent": self._filter_indent,
            "tojson": self._filter_tojson,
        }

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        for kind, methods in _METHODS.items():
            if isinstance(obj, kind):
                return attr in methods
        return super().is_safe_attribute(obj, attr, value)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        wrapped = super().wrap_str_format(value)
        if wrapped is not None:
            text = value.__self__
            if value.__name__ != "format" or any(spec for _, _, spec, _ in string.Formatter().parse(text)):
                raise SecurityError(f"format of {text[:40]!r} with widths is not available to chat templates")
        return wrapped

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        if operator == "%" and isinstance(left, (str, bytes)):
            raise SecurityError("'%' on text is not available to chat templates: use ~")
        if operator == "*":
            for sequence, times in ((left, right), (right, left)):
                if isinstance(sequence, (str, list, tuple)) and isinstance(times, int):
                    self.spend(self.meter.weight(sequence) * max(0, times))
        return self.charge(super().call_binop(context, operator, left, right))

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:  # noqa: N805
        if any(__obj == own for own in __self._own):
            return __obj(*args)
        owner = getattr(__obj, "__self__", None)
        if isinstance(owner, str) and __obj.__name__ == "replace":
            __self._foresee_replace(owner, *args)
        if isinstance(owner, str) and __obj.__name__ == "join":
            args = (__self._foresee_join(owner, *args),)
        return __self.charge(super().call(__context, __obj, *args, **kwargs))

    def _foresee_replace(self, text: str, old: str, new: str, count: int = -1) -> None:
        found = text.count(old)
        self.spend(len(new) * (found if count < 0 else min(found, count)))

    def _foresee_join(self, separator: str, values: Iterable[Any]) -> list[Any]:
        listed = self.meter.collect(values)
        self.spend(len(separator) * len(listed))
        return listed

    def _filter_replace(self, text: Any, old: Any, new: Any, count: int = -1) -> str:
        self._foresee_replace(str(text), str(old), str(new), count)
        return str(text).replace(str(old), str(new), count)

    def _filter_join(self, values: Iterable[Any], d: Any = "", attribute: str | int | None = None) -> str:
        if attribute is not None:
            values = map(filters.make_attrgetter(self, attribute), values)
        return str(d).join(map(str, self._foresee_join(str(d), values)))

    def _filter_indent(self, text: Any, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
        text = str(text)
        step = len(width) if isinstance(width, str) else width
        if step > MAX_INDENT:
            raise SecurityError(f"an indent of {step} is not available to chat templates, at most {MAX_INDENT}")
        return filters.do_indent(text, width, first, blank)

    def _filter_tojson(
        self,
        value: Any,
        ensure_ascii: bool = False,
        indent: int | None = None,
        separators: tuple[str, str] | None = None,
        sort_keys: bool = False,
    ) -> str:
        wide = [len(part) for part in separators or ()] + ([] if indent is None else [indent])
        if any(width > MAX_INDENT for width in wide):
            raise SecurityError(f"tojson with an indent above {MAX_INDENT} is not available to chat templates")
        self.spend(self.meter.weight(value) * (1 if indent is None else 1 + indent * MAX_NESTING))
        return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _eager(lazy: Callable[..., Any], meter: Meter) -> Callable[..., Any]:
    """A filter that gives its whole, paid result instead of a generator."""

    def whole(*args: Any, **kwargs: Any) -> list[Any]:
        if isinstance(args[0], Context):  # these look at each item by another filter or test
            args = (args[0], meter.walk(args[1]), *args[2:])
        return meter.collect(lazy(*args, **kwargs))

    whole.jinja_pass_arg = getattr(lazy, "jinja_pass_arg", None)  # type: ignore[attr-defined]
    return whole


def _raise_exception(message: object) -> NoReturn:
    raise _Refused(message)


def _strftime_now(form: str) -> str:
    if len(form) > 256:
        raise SecurityError("a date format of more than 256 characters is not available to chat templates")
    return datetime.now().strftime(form)


def _namespace(*given: Mapping[str, Any], **items: Any) -> Namespace:
    values = dict(*given, **items)
    if any(str(name).startswith("_") for name in values):
        raise SecurityError("names that begin with _ are not available to chat templates")
    return Namespace(values)
