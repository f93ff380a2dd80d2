"""The flows: what the service does with the LLM. Nothing here knows which protocol asked.

Each public method of `Flows` becomes the Genkit flow of the same name (`src.runner`). A flow gets a validated model
of `src.schemas` and returns one, or raises an exception of `src.errors`.
"""

from datetime import UTC, datetime

from genkit import ActionRunContext, Genkit, Media, Part

from src.bulkhead import Bulkhead
from src.image_fetch import ImageFetcher
from src.llm import Llm
from src.schemas import (
    CharacterRequest,
    ChatRequest,
    ChatResponse,
    CodeRequest,
    CodeResponse,
    CodeReviewRequest,
    CodeReviewResponse,
    ImageRequest,
    ImageResponse,
    JokeRequest,
    JokeResponse,
    RpgCharacter,
    StoryRequest,
    StoryResponse,
    TranslateRequest,
    Translation,
    TranslationResponse,
)

MAX_PROMPT_CHARS = 2000
MAX_IMAGES = 16  # in memory at once, of up to 14 MB each

PIRATE_CAPTAIN = (
    "You are a pirate captain from the golden age of piracy. Answer every question in character, in a few "
    "sentences, and stay helpful and friendly."
)


def sanitize(text: str) -> str:
    """Free text as it goes to the LLM: stripped, and cut to 2,000 characters."""
    return text.strip()[:MAX_PROMPT_CHARS]


async def get_current_time() -> str:
    """The current date and time in UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class Flows:
    """The flows over one model.

    Args:
        ai: Genkit, for traced steps and tools.
        llm: The guarded way to the model.
        images: Fetches the images that callers name.
    """

    def __init__(self, ai: Genkit, llm: Llm, images: ImageFetcher) -> None:
        self._ai = ai
        self._llm = llm
        self._images = images
        self._images_in_memory = Bulkhead(MAX_IMAGES)
        self._clock = ai.tool(name="get_current_time")(get_current_time)

    async def tell_joke(self, input: JokeRequest) -> JokeResponse:
        """Plain generation."""
        joke = await self._llm.text(_joke_prompt(input))
        return JokeResponse(joke=joke, username=input.username)

    async def tell_joke_stream(self, input: JokeRequest, ctx: ActionRunContext[str]) -> JokeResponse:
        """The joke, chunk by chunk."""
        joke = await self._llm.text(_joke_prompt(input), on_text=ctx.send_chunk)
        return JokeResponse(joke=joke, username=input.username)

    async def tell_story(self, input: StoryRequest, ctx: ActionRunContext[str]) -> StoryResponse:
        """A longer text, chunk by chunk."""
        prompt = f"Tell a short story, of about 200 words, about {sanitize(input.topic)}."
        return StoryResponse(story=await self._llm.text(prompt, on_text=ctx.send_chunk))

    async def translate_text(self, input: TranslateRequest) -> TranslationResponse:
        """Structured output, a traced step and a tool."""

        async def sanitize_input() -> str:
            return sanitize(input.text)

        text = await self._ai.run(name="sanitize-input", fn=sanitize_input)
        language = sanitize(input.target_language)
        translation = await self._llm.structured(
            f"Translate the text below into {language}. Where it speaks of now or today, use the tool "
            f"get_current_time.\n\nText: {text}",
            Translation,
            tools=[self._clock],
        )
        return TranslationResponse(
            original_text=input.text, target_language=input.target_language, **translation.model_dump()
        )

    async def describe_image(self, input: ImageRequest) -> ImageResponse:
        """Multimodal input. The image is fetched here, guarded: the SDK would download from anywhere."""
        async with self._images_in_memory.place():
            image = await self._images.fetch(input.image_url)
            media_type = image.partition(";")[0].removeprefix("data:")
            description = await self._llm.text(
                [
                    Part(text="Describe this image in a few sentences."),
                    Part(media=Media(url=image, content_type=media_type)),
                ]
            )
        return ImageResponse(description=description, image_url=input.image_url)

    async def generate_character(self, input: CharacterRequest) -> RpgCharacter:
        """Structured output with nesting and limits."""
        character = await self._llm.structured(
            f"Generate a role-playing game character named {sanitize(input.name)}. Give three to five abilities "
            f"and skills from 0 to 100.",
            RpgCharacter,
        )
        return character.model_copy(update={"name": input.name or character.name})

    async def pirate_chat(self, input: ChatRequest) -> ChatResponse:
        """A system prompt."""
        return ChatResponse(answer=await self._llm.text(sanitize(input.question), system=PIRATE_CAPTAIN))

    async def generate_code(self, input: CodeRequest) -> CodeResponse:
        """Structured output with longer texts."""
        code = await self._llm.structured(
            f"Write {input.language} code for this task: {sanitize(input.description)}", CodeResponse
        )
        return code.model_copy(update={"language": input.language})

    async def review_code(self, input: CodeReviewRequest) -> CodeReviewResponse:
        """A Dotprompt file."""
        variables = {"code": sanitize(input.code), "language": input.language or ""}
        return await self._llm.from_prompt_file("code_review", variables, CodeReviewResponse)


def _joke_prompt(input: JokeRequest) -> str:
    audience = f" Address it to {sanitize(input.username)}." if input.username else ""
    return f"Tell a short, friendly joke about {sanitize(input.name)}.{audience}"
