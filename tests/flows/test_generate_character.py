"""The limits of a character, and its names in JSON and protobuf."""

import pytest
from pydantic import ValidationError

from src import schemas
from src.generated import service_pb2

CHARACTER = schemas.RpgCharacter(
    name="n", back_story="b", abilities=["x"], skills=schemas.Skills(strength=0, charisma=100, endurance=50)
)


def test_the_character_has_camel_case_back_story_in_json_only() -> None:
    assert "backStory" in CHARACTER.model_dump(by_alias=True)
    assert "back_story" in service_pb2.RpgCharacter.DESCRIPTOR.fields_by_name


def test_the_skills_have_the_numbers_of_the_contract() -> None:
    fields = service_pb2.Skills.DESCRIPTOR.fields
    assert {field.name: field.number for field in fields} == {"strength": 1, "charisma": 2, "endurance": 3}


@pytest.mark.parametrize("skill", ["strength", "charisma", "endurance"])
@pytest.mark.parametrize("value", [-1, 101])
def test_a_skill_beyond_0_to_100_is_refused(skill: str, value: int) -> None:
    with pytest.raises(ValidationError):
        schemas.Skills.model_validate({"strength": 1, "charisma": 1, "endurance": 1, skill: value})


def test_a_character_has_ten_abilities_at_most() -> None:
    with pytest.raises(ValidationError):
        schemas.RpgCharacter.model_validate({**CHARACTER.model_dump(), "abilities": ["a"] * 11})
