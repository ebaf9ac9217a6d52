"""Words of a style guideline, and the prompt that carries one."""

from typing import Literal, get_args

from pydantic import BaseModel, ValidationError

from ..task import Message

Tone = Literal["plain", "warm", "playful", "crisp"]
Audience = Literal["regular", "explorer", "saver", "newcomer"]
Occasion = Literal["everyday", "weekend", "season", "holiday", "campaign"]
Device = Literal["fact", "question", "comparison", "reminder", "pairing"]

TONES, AUDIENCES, OCCASIONS, DEVICES = map(get_args, (Tone, Audience, Occasion, Device))


class Guideline(BaseModel, extra="forbid", frozen=True):
    """How a text is to be written."""

    tone: Tone
    audience: Audience
    occasion: Occasion
    device: Device

    @property
    def words(self) -> str:
        """``tone: warm; audience: regular; occasion: weekend; device: fact``."""
        return "; ".join(f"{name}: {value}" for name, value in self)

    @classmethod
    def of(cls, words: str) -> "Guideline | None":
        """The reverse of :attr:`words`; None for anything else."""
        pairs = [part.partition(": ") for part in words.split("; ")]
        try:
            found = cls(**{name: value for name, _, value in pairs})
        except (ValidationError, TypeError):
            return None
        return found if found.words == words else None


def with_guideline(prompt: list[Message], guideline: str) -> list[Message]:
    """The prompt whose last message ends with a guideline; the same for an empty one."""
    if not guideline:
        return prompt
    *before, last = prompt
    return [*before, {**last, "content": f"{last['content']}\nStyle: {guideline}"}]
