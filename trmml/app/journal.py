"""The journal of answers: one line for each, only ever added to, on disk before the next question.

A process that is killed leaves whole lines and at most one that breaks off, which is dropped. An answer
that is taken back stays in the file; a later line says so.
"""

import json
import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal, NamedTuple, get_args

from trmml.errors import ConfigError, DataError
from trmml.files import writing_to

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

Reply = Literal["yes", "no", "unsure"]
HEADER = {"format": "trmml answers", "version": 1}
MAX_LINE_BYTES = 2**16


class Answer(NamedTuple):
    """What a person said of one label in one photo.

    Attributes:
        id: Of this answer; one that comes twice counts once.
        image: The photo, as it is named from the photo folder.
        label: The label.
        reply: Yes, no, or that the person does not know.
        time: Seconds since 1970.
    """

    id: str
    image: str
    label: str
    reply: Reply
    time: float


class Journal:
    """Answers to one table, in a file that one process at a time adds to.

    Attributes:
        path: The file.
        answers: Those that stand, by id, in the order in which they were given.
        dropped: Bytes of a line at the end that broke off, and was dropped.
    """

    def __init__(self, path: Path) -> None:
        """Open a journal, or begin one; what is there is read.

        Raises:
            ConfigError: If another process has it open.
            DataError: If a whole line of it is no answer.
            OutputError: If it cannot be written to.
        """
        self.path = path
        self.answers: dict[str, Answer] = {}
        self._taken_back: set[str] = set()
        with writing_to(path):
            self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o666)
        try:
            self._lock()
            with path.open("rb") as file:
                content = file.read()
            self._length = content.rfind(b"\n") + 1
            self.dropped = len(content) - self._length
            for number, line in enumerate(content[: self._length].splitlines(), 1):
                self._read(line, number)
            with writing_to(path):
                if self.dropped:
                    os.truncate(self._file, self._length)
                if not self._length:
                    self._write([HEADER])
        except BaseException:
            self.close()
            raise

    def __contains__(self, answer_id: str) -> bool:
        """Say whether an answer was given, even if it was taken back."""
        return answer_id in self.answers or answer_id in self._taken_back

    def add(self, answers: Iterable[Answer]) -> list[Answer]:
        """Write answers to the disk, and return those that were new.

        Raises:
            OutputError: If they cannot be written; then none of them counts.
        """
        new = list({answer.id: answer for answer in answers if answer.id not in self}.values())
        with writing_to(self.path, "Nothing is lost but this answer; make room and give it again."):
            self._write([_line_of(answer) for answer in new])
        self.answers |= {answer.id: answer for answer in new}
        return new

    def take_back(self, answer_id: str) -> Answer | None:
        """Take one answer back; None if there is none that stands.

        Raises:
            OutputError: If that cannot be written.
        """
        if answer_id not in self.answers:
            return None
        with writing_to(self.path):
            self._write([{"undo": answer_id, "time": round(time.time(), 3)}])
        self._taken_back.add(answer_id)
        return self.answers.pop(answer_id)

    def close(self) -> None:
        """Let another process have it."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _lock(self) -> None:
        if fcntl is None:
            return
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(
                f"Another process has {self.path} open; go on in its page, or end it first."
            ) from error
        except OSError:  # a file system without locks
            return

    def _write(self, records: list[dict[str, Any]]) -> None:
        """Add lines in one piece; if that fails, leave what was there before."""
        if not records:
            return
        text = "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        content = text.encode()
        try:
            written = 0
            while written < len(content):
                written += os.write(self._file, content[written:])
            os.fsync(self._file)
        except OSError:
            os.truncate(self._file, self._length)
            raise
        self._length += len(content)

    def _read(self, line: bytes, number: int) -> None:
        place = f"{self.path}, line {number}"
        advice = "mend or remove that line, or name another journal with --journal"
        try:
            if len(line) > MAX_LINE_BYTES:
                raise ValueError("it is too long")
            record = json.loads(line.decode())
            if number == 1:
                if record != HEADER:
                    raise ValueError(f"expected {json.dumps(HEADER)}")
                return
            if "undo" in record:
                self.answers.pop(record["undo"], None)
                self._taken_back.add(record["undo"])
                return
            answer = _answer_of(record)
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DataError(f"{place} is no answer ({error}); {advice}.") from error
        self.answers[answer.id] = answer


def _line_of(answer: Answer) -> dict[str, Any]:
    values = answer._asdict()
    return {**values, "time": round(answer.time, 3)}


def _answer_of(record: Any) -> Answer:
    answer = Answer(**record)
    texts = (answer.id, answer.image, answer.label)
    if not all(isinstance(text, str) for text in texts) or answer.reply not in get_args(Reply):
        raise ValueError("expected id, image, label, a reply of yes, no or unsure, and time")
    return answer._replace(time=float(answer.time))
