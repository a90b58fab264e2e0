"""Questions to ids and ids to text: templates, special tokens, and pieces that never break a character."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from edge_agent.bundle import open_bundle
from edge_agent.errors import BundleError, RequestError
from edge_agent.template import ChatTemplate
from edge_agent.tokenizer import Tokenizer, open_tokenizer
from hub.wire import ChatMessage, Question

BOS, START, END = 0, 1, 2


@pytest.fixture(scope="module")
def tokenizer(tiny_bundle: Path) -> Tokenizer:
    return open_tokenizer(open_bundle(tiny_bundle))


@pytest.fixture(scope="module")
def plain(tiny_tokenizer: Path) -> Tokenizer:
    """The same tokenizer of a model without a chat template."""
    return Tokenizer(tiny_tokenizer, bos_token="<s>")


def text_of(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    return "".join(tokenizer._backend.decode([token], skip_special_tokens=False) for token in ids)


def test_a_question_is_one_user_message(tokenizer: Tokenizer) -> None:
    """`question` goes through the template, with the prompt for the answer and without another BOS."""
    ids = tokenizer.encode_question(Question(question="What is the capital?"))
    prompt = "<|im_start|>user\nWhat is the capital?<|im_end|>\n<|im_start|>assistant\n"
    assert text_of(tokenizer, ids) == prompt
    assert ids[0] == START
    assert BOS not in ids


def test_messages_keep_their_turns(tokenizer: Tokenizer) -> None:
    """Every message is in the prompt, in order."""
    turns = (ChatMessage(role="system", content="Be kind."), ChatMessage(role="user", content="Hi"))
    prompt = "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"
    assert text_of(tokenizer, tokenizer.encode_question(Question(messages=turns))) == prompt


def test_text_is_taken_as_it_is(tokenizer: Tokenizer) -> None:
    """`text` meets no template; the model's own first token comes before it, once."""
    ids = tokenizer.encode_question(Question(text="The capital of France is"))
    assert text_of(tokenizer, ids) == "<s>The capital of France is"
    assert tokenizer.encode_question(Question(text="<s>The capital of France is")) == ids


def test_a_model_without_a_template_gets_the_plain_text(plain: Tokenizer) -> None:
    """One question, or one message, is its text; several messages are refused rather than glued."""
    ids = plain.encode_question(Question(question="Hello"))
    assert text_of(plain, ids) == "<s>Hello"
    one = (ChatMessage(role="user", content="Hello"),)
    assert plain.encode_question(Question(messages=one)) == ids
    with pytest.raises(RequestError, match="no chat template") as refusal:
        plain.encode_question(Question(messages=one * 2))
    assert refusal.value.code == "unsupported"


def test_a_template_that_writes_bos_gives_one(tiny_tokenizer: Path) -> None:
    """What the template writes is all there is: nothing is put before its BOS."""
    template = ChatTemplate("{{ bos_token }}{{ messages[0].content }}", "t")
    tokenizer = Tokenizer(tiny_tokenizer, chat_template=template, bos_token="<s>")
    assert tokenizer.encode_question(Question(question="Hi")).count(BOS) == 1


def test_an_empty_prompt_is_refused(tiny_tokenizer: Path) -> None:
    """A prompt of no tokens cannot be answered."""
    tokenizer = Tokenizer(tiny_tokenizer, chat_template=ChatTemplate("", "t"))
    with pytest.raises(RequestError, match="no tokens") as refusal:
        tokenizer.encode_question(Question(question="Hi"))
    assert refusal.value.code == "invalid"


def test_settings_of_a_training_do_not_cut_prompts(tiny_tokenizer: Path, tmp_path: Path) -> None:
    """Truncation and padding in tokenizer.json are left behind."""
    import tokenizers

    backend = tokenizers.Tokenizer.from_file(str(tiny_tokenizer))
    backend.enable_truncation(4)
    backend.enable_padding(length=64)
    backend.save(str(tmp_path / "tokenizer.json"))
    assert Tokenizer(tmp_path / "tokenizer.json").encode("abc " * 30) == Tokenizer(tiny_tokenizer).encode("abc " * 30)


def test_size_is_the_room_that_ids_need(tokenizer: Tokenizer) -> None:
    """Every id that can come out is below `size`."""
    assert tokenizer.size == 320


@pytest.mark.parametrize("payload", [b"", b"{}", b"[1]", b"\xff", b'{"model": {"type": "Nonsense"}}'])
def test_a_broken_tokenizer_is_refused(payload: bytes, tmp_path: Path) -> None:
    """One line names the file."""
    (tmp_path / "tokenizer.json").write_bytes(payload)
    with pytest.raises(BundleError, match=r"tokenizer\.json: not a readable tokenizer") as refusal:
        Tokenizer(tmp_path / "tokenizer.json")
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        (b"{% for %}", "chat template is not taken"),
        (b"{{ raise_exception('never') }}", "takes no question: .*never"),
        (b"\xff", "not a readable chat template"),
        (b"", "no tokens"),
    ],
)
def test_a_template_that_never_works_is_found_when_the_bundle_opens(
    source: bytes, words: str, make_bundle: Callable[..., Path]
) -> None:
    """A broken template is a broken bundle, not a failure for each question."""

    def change(staging: Path) -> None:
        (staging / "tokenizer/chat_template.jinja").write_bytes(source)

    with pytest.raises(BundleError, match=words):
        open_tokenizer(open_bundle(make_bundle(change)))


class PanicException(BaseException):
    """What pyo3 raises, by its name."""


def test_a_panic_of_the_library_fails_one_question(tiny_bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no Exception, and must not end the thread that answers; Ctrl-C still does."""
    tokenizer = open_tokenizer(open_bundle(tiny_bundle))

    class Panicking:
        def __init__(self, error: BaseException) -> None:
            self._error = error

        def encode(self, *_: object, **__: object) -> None:
            raise self._error

    monkeypatch.setattr(tokenizer, "_backend", Panicking(PanicException("index out of bounds")))
    with pytest.raises(RequestError, match="the tokenizer failed: index out of bounds"):
        tokenizer.encode_question(Question(question="Why?"))
    monkeypatch.setattr(tokenizer, "_backend", Panicking(KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        tokenizer.encode("Why?")


# --- pieces ---------------------------------------------------------------------------------------------


def pieces(tokenizer: Tokenizer, ids: Sequence[int]) -> list[str]:
    stream = tokenizer.stream()
    return [*(stream.push(token) for token in ids), stream.finish()]


@given(st.lists(st.integers(0, 330), max_size=60))
def test_pieces_join_to_the_whole(tokenizer: Tokenizer, ids: list[int]) -> None:
    """Whatever the ids (special, unknown, halves of characters), the pieces joined are the whole text."""
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)


@given(st.text(max_size=40))
def test_text_survives_and_no_piece_holds_half_a_character(tokenizer: Tokenizer, text: str) -> None:
    """Real text comes back exactly, and U+FFFD appears in no piece unless it was in the text."""
    ids = tokenizer._backend.encode(text, add_special_tokens=False).ids
    parts = pieces(tokenizer, ids)
    assert "".join(parts) == tokenizer.decode(ids)
    if "�" not in text:
        assert not any("�" in part for part in parts)


def test_pieces_come_as_soon_as_they_are_whole(tokenizer: Tokenizer) -> None:
    """Each token of plain text gives its text at once; a character of four bytes comes with the last."""
    ids = tokenizer._backend.encode("The capital", add_special_tokens=False).ids
    assert all(pieces(tokenizer, ids)[:-1])
    bear = [
        tokenizer._backend.token_to_id(char) for char in "ð\u0141\u0132»"
    ]  # the bytes F0 9F 90 BB as BPE writes them
    assert pieces(tokenizer, bear) == ["", "", "", "🐻", ""]


@given(st.text(max_size=40).filter(lambda text: "�" not in text), st.integers(0, 60))
def test_a_cut_answer_ends_with_a_whole_character(tokenizer: Tokenizer, text: str, kept: int) -> None:
    """Cut after any token, the text is a beginning of the whole, and the stream's pieces are the same."""
    ids = tokenizer._backend.encode(text, add_special_tokens=False).ids
    begun = tokenizer.decode_cut(ids[:kept])
    assert tokenizer.decode(ids).startswith(begun)
    assert "�" not in begun
    stream = tokenizer.stream()
    assert "".join([*map(stream.push, ids[:kept]), stream.finish(cut=True)]) == begun


def test_wrong_bytes_are_not_held_for_ever(tokenizer: Tokenizer) -> None:
    """All but the last of a run of wrong bytes are given out while it still runs."""
    stray = tokenizer._backend.token_to_id("Ģ")  # the byte 80, which begins nothing
    assert pieces(tokenizer, [stray] * 5) == ["", "�", "�", "�", "�", "�"]


def sentencepiece_like() -> Any:
    """A tokenizer as Llama 2 has it: spaces as ▁, unknown characters as byte tokens, one leading space dropped."""
    import tokenizers
    from tokenizers import decoders, models

    vocabulary = {"<unk>": 0, "<s>": 1, "</s>": 2, **{f"<0x{byte:02X}>": 3 + byte for byte in range(256)}}
    for token in ("▁", "▁the", "▁a", "b", "c", "é", "▁▁", "."):
        vocabulary[token] = len(vocabulary)
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, [], unk_token="<unk>", byte_fallback=True))
    backend.add_special_tokens(["<s>", "</s>"])
    backend.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    return backend


def metaspace_like() -> Any:
    """A tokenizer whose decoder drops the first space of what it is given."""
    import tokenizers
    from tokenizers import decoders, models

    words = ["<unk>", "<s>", "</s>", "▁", "▁the", "▁a", "b", "c", "é", "▁▁", "."]
    backend = tokenizers.Tokenizer(models.WordLevel({word: n for n, word in enumerate(words)}, unk_token="<unk>"))
    backend.add_special_tokens(["<s>", "</s>"])
    backend.decoder = decoders.Metaspace()
    return backend


@pytest.mark.parametrize("kind", [sentencepiece_like, metaspace_like])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_pieces_join_to_the_whole_with_other_decoders(
    kind: Callable[[], Any], tmp_path: Path, data: st.DataObject
) -> None:
    """Leading spaces and runs of byte tokens depend on their neighbours; the pieces still join to the whole."""
    path = tmp_path / "tokenizer.json"
    if not path.exists():
        kind().save(str(path))
    tokenizer = Tokenizer(path)
    ids = data.draw(st.lists(st.integers(0, tokenizer.size - 1), max_size=30))
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)


# --- the real model -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def real(bundle: Path) -> Tokenizer:
    return open_tokenizer(open_bundle(bundle))


@pytest.mark.model
def test_the_real_prompt_has_37_tokens(real: Tokenizer) -> None:
    """A tokenizer that splits wrongly makes 103 of them."""
    assert len(real.encode_question(Question(question="What is the capital of France?"))) == 37


@pytest.mark.model
@settings(deadline=None)
@given(st.data())
def test_real_pieces_join_to_the_whole(real: Tokenizer, data: st.DataObject) -> None:
    """Over random ids of the real vocabulary, too."""
    ids = data.draw(st.lists(st.integers(0, real.size - 1), max_size=60))
    assert "".join(pieces(real, ids)) == real.decode(ids)


@pytest.mark.model
@settings(deadline=None)
@given(st.text(max_size=60))
def test_real_text_survives(real: Tokenizer, text: str) -> None:
    """Any text comes back from its ids, piece by piece."""
    ids = real._backend.encode(text, add_special_tokens=False).ids
    assert "".join(pieces(real, ids)) == real.decode(ids)
