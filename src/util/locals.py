"""Free objects that exceptions keep alive."""

import traceback


def forget_locals(failure: BaseException | None) -> None:
    """Clear the local variables of all frames in the tracebacks of an exception and its causes.

    Libraries store exceptions in variables. These reference cycles keep everything in the frames alive, for example
    copies of an image, until garbage collection. That may take long, because the collector counts objects, not bytes.
    Frames that still run are not cleared.
    """
    left, seen = [failure], set()
    while left:
        error = left.pop()
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        left += [error.__cause__, error.__context__]
