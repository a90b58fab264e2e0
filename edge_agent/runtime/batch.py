"""Writes several answers at once with one decoder: which of them runs next, and who joins and leaves between tokens.

Each call of `advance` is one run of the graph: a chunk of one prompt, a step of all answers together, or a check of
one guess. Prompts come in chunks of bounded time with a step of the others between two of them, in turns, so that a
long one stops nobody. The answers being written hold the decoder's first rows. Knows nothing of text; one thread at a
time.
"""

from __future__ import annotations

import collections
import time
from collections.abc import Callable, Collection, Sequence
from typing import Final, Literal

from edge_agent.errors import RequestError
from edge_agent.memory import available_bytes
from edge_agent.runtime.cache import KvCache
from edge_agent.runtime.guess import Guesser
from edge_agent.runtime.prefix_cache import PrefixCache
from edge_agent.runtime.row_decoder import CHUNK_TOKENS, RowDecoder, chunks
from edge_agent.runtime.run_cost import RunCost
from edge_agent.runtime.sampling import Logits, greedy

CHUNK_MS: Final = 100.0  # of one prompt, between two steps of the others
_LEAST_CHUNK_TOKENS: Final = 16  # a run has a cost of its own, whatever is in it
_LEAST_FED: Final = 2  # a prompt's last tokens are run even if they are known: one alone goes through other kernels


class Generated:
    """One answer under way. `finish` is None until it has ended; `error` says why it could not be written.

    `tokens` are those said, without a stop token; `cached` of the prompt were not computed again. The times are of
    `time.perf_counter`: taken up, first token, end.
    """

    def __init__(
        self,
        ids: Sequence[int],
        *,
        choose: Callable[[Logits], int],
        max_tokens: int,
        stop_ids: Collection[int],
        should_stop: Callable[[], bool] = lambda: False,
        on_token: Callable[[int], bool] = lambda token_id: False,
    ) -> None:
        """`on_token` is called with each token and ends the answer by True; `should_stop` is asked before each run."""
        self.ids = list(ids)
        self.max_tokens = max_tokens
        self.choose = choose
        self.should_stop = should_stop
        self.tokens: list[int] = []
        self.cached = 0
        self.finish: Literal["stop", "length", "cancelled"] | None = None
        self.error: RequestError | None = None
        self.began_at = self.first_at = self.ended_at = 0.0
        self.row = -1
        self.guesser = Guesser(ids) if choose is greedy else None
        self._stop_ids = stop_ids
        self._on_token = on_token

    @property
    def ended(self) -> bool:
        """Nothing more will come."""
        return self.finish is not None or self.error is not None

    def take(self, token_id: int) -> None:
        """The answer goes on with this token."""
        if token_id in self._stop_ids:
            self.finish = "stop"
            return
        self.tokens.append(token_id)
        if self.guesser is not None:
            self.guesser.said(token_id)
        if self._on_token(token_id):
            self.finish = "stop"
        elif len(self.tokens) == self.max_tokens:
            self.finish = "length"


class Batch:
    """At most `decoder.rows` answers at once; more wait for a row."""

    def __init__(self, decoder: RowDecoder, prefixes: PrefixCache, cost: RunCost) -> None:
        self.cost = cost
        self._decoder = decoder
        self._host = decoder.cache if isinstance(decoder.cache, KvCache) else None  # else nothing copies from rows
        self._prefixes = prefixes
        self._waiting: collections.deque[Generated] = collections.deque()
        self._feeding: collections.deque[Generated] = collections.deque()  # in turns
        self._writing: list[Generated] = []  # by row
        self._fed_last = False

    @property
    def idle(self) -> bool:
        """Nothing is under way."""
        return not (self._waiting or self._feeding or self._writing)

    def add(self, answer: Generated) -> None:
        """Take up an answer. Raises ContextOverflow if it cannot fit, RequestError (`overloaded`: another node may do)
        if the machine has not the memory for it, ValueError for no tokens.
        """
        if not answer.ids:
            raise ValueError("no tokens: a sequence needs at least one")
        self._decoder.cache.require(len(answer.ids), answer.max_tokens)
        self._require_memory(answer)
        self._waiting.append(answer)

    def advance(self) -> list[Generated]:
        """One run of the graph; the answers that have ended with it."""
        ended = self._drop_unwanted()
        self._admit()
        if self._feeding and not (self._writing and self._fed_last):
            self._fed_last = True
            self._feed(self._feeding[0])
        elif self._writing:
            self._fed_last = False
            self._write()
        for answer in [answer for answer in self._writing if answer.ended]:
            self._leave(answer)
            ended.append(answer)
        now = time.perf_counter()
        for answer in ended:
            answer.ended_at = now
        return ended

    def clear(self) -> list[Generated]:
        """Forget all that is under way, and return it."""
        left = [*self._writing, *self._feeding, *self._waiting]
        self._writing.clear()
        self._feeding.clear()
        self._waiting.clear()
        for row in range(self._decoder.rows):
            self._decoder.reset(row)
        return left

    # --- inside -----------------------------------------------------------------------------------------

    def _require_memory(self, answer: Generated) -> None:
        """What this answer and those under way may still take must be free.

        Caches that have to grow are copied: for a moment what is held is there twice.
        """
        cache = self._decoder.cache
        under_way = [*self._writing, *self._feeding, *self._waiting, answer]
        tokens = sum(len(one.ids) + one.max_tokens for one in under_way)
        held = int(cache.lengths.sum())
        growing = max(len(one.ids) + one.max_tokens for one in under_way) > cache.capacity
        needed = (tokens - held + (held if growing else 0)) * cache.bytes_per_token
        free = available_bytes()
        if free is not None and needed > free:
            raise RequestError(
                "overloaded",
                f"{tokens} tokens of prompts and answers need {needed / 1e6:.0f} MB for their caches, "
                f"{free / 1e6:.0f} MB are free: shorten the question, lower max_tokens, or ask again later",
            )

    def _drop_unwanted(self) -> list[Generated]:
        dropped = [a for a in (*self._writing, *self._feeding, *self._waiting) if a.should_stop()]
        for answer in dropped:
            answer.finish = "cancelled"
            if answer in self._writing:
                self._leave(answer)
            elif answer in self._feeding:
                self._feeding.remove(answer)
                self._decoder.reset(answer.row)
            else:
                self._waiting.remove(answer)
        return dropped

    def _admit(self) -> None:
        while self._waiting and len(self._writing) + len(self._feeding) < self._decoder.rows:
            answer = self._waiting.popleft()
            taken = {one.row for one in self._feeding}
            answer.row = next(r for r in range(len(self._writing), self._decoder.rows) if r not in taken)
            answer.began_at = time.perf_counter()
            self._decoder.reset(answer.row)
            self._decoder.make_room(len(answer.ids), answer.row)
            known = answer.ids[: max(len(answer.ids) - _LEAST_FED, 0)]
            answer.cached = 0 if self._host is None else self._prefixes.load(known, self._host, answer.row)
            self._feeding.append(answer)

    def _feed(self, answer: Generated) -> None:
        """The next chunk of a prompt; behind the last one the first token."""
        left = answer.ids[int(self._decoder.cache.lengths[answer.row]) :]
        most = max(_LEAST_CHUNK_TOKENS, min(CHUNK_TOKENS, self.cost.tokens_within(CHUNK_MS)))
        chunk = next(chunks(left, most))
        started = time.perf_counter()
        logits = self._decoder.extend(chunk, answer.row)
        if len(chunk) > 1:
            self.cost.ran(1e3 * (time.perf_counter() - started), len(chunk))
        self._feeding.rotate(-1)
        fed = len(answer.ids) - len(left) + len(chunk)
        self._keep(answer.ids[:fed], answer.row)
        if len(chunk) == len(left):
            self._join(answer)
            self._choose(answer, logits)
            answer.first_at = time.perf_counter()

    def _write(self) -> None:
        """One more token for every answer, or several for the only one."""
        if len(self._writing) == 1 and not self._feeding and self._guessed(self._writing[0]):
            return
        started = time.perf_counter()
        logits = self._decoder.step_rows([answer.tokens[-1] for answer in self._writing])
        if len(self._writing) == 1:
            self.cost.stepped(1e3 * (time.perf_counter() - started))
        for answer, its_logits in zip(self._writing, logits, strict=True):
            self._choose(answer, its_logits)

    def _guessed(self, answer: Generated) -> bool:
        """Check a guess where that yields more than a step; False where it does not."""
        if answer.guesser is None:
            return False
        room = min(answer.max_tokens - len(answer.tokens) - 1, self._decoder.context - self._length(answer) - 1)
        guess = answer.guesser.guess()[: max(room, 0)]
        guess = guess[: self.cost.worth_checking(answer.guesser.luck, len(guess))]
        if not guess:
            return False
        before = self._length(answer)
        started = time.perf_counter()
        logits = self._decoder.check([answer.tokens[-1], *guess], answer.row)
        self.cost.ran(1e3 * (time.perf_counter() - started), 1 + len(guess))
        right = 0
        for right, its_logits in enumerate(logits):
            self._choose(answer, its_logits)
            if answer.ended or right == len(guess) or answer.tokens[-1] != guess[right]:
                break
        self._decoder.rewind(before + right + 1, answer.row)
        return True

    def _choose(self, answer: Generated, logits: Logits) -> None:
        try:
            answer.take(answer.choose(logits))
        except RequestError as error:
            answer.error = error

    def _length(self, answer: Generated) -> int:
        return int(self._decoder.cache.lengths[answer.row])

    def _join(self, answer: Generated) -> None:
        """Behind the rows that are written; whoever else is fed there makes room."""
        self._feeding.remove(answer)
        self._place(answer, len(self._writing))
        self._writing.append(answer)

    def _leave(self, answer: Generated) -> None:
        """What was said stays known; the last row closes the gap."""
        held = [*answer.ids, *answer.tokens][: self._length(answer)]
        self._keep(held, answer.row)
        self._decoder.reset(answer.row)
        last = self._writing.pop()
        if last is not answer:
            self._writing[answer.row] = last
            self._swap(last.row, answer.row)
            last.row = answer.row

    def _place(self, answer: Generated, row: int) -> None:
        if answer.row == row:
            return
        other = next((one for one in self._feeding if one.row == row), None)
        self._swap(answer.row, row)
        if other is not None:
            other.row = answer.row
        answer.row = row

    def _keep(self, ids: Sequence[int], row: int) -> None:
        if self._host is not None:
            self._prefixes.store(ids, self._host, row)

    def _swap(self, one: int, other: int) -> None:
        assert self._host is not None, "a decoder whose caches lie elsewhere has one row"
        self._host.swap(one, other)
