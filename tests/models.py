"""A model of structured output with nesting, a list, an alias and limits."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, StringConstraints


class Skills(BaseModel):
    strength: int = Field(ge=0, le=100)
    charisma: int = Field(ge=0, le=100)
    endurance: int = Field(ge=0, le=100)


class Character(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    name: str
    back_story: str = Field(alias="backStory")
    abilities: list[Annotated[str, StringConstraints(max_length=200)]] = Field(max_length=10)
    skills: Skills
