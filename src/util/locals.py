"""Objects that failures keep alive."""

import traceback


def forget_locals(failure: BaseException | None) -> None:
    """Clear the variables of the frames that a failure has come through, and of those of its causes.

    Libraries keep exceptions in their variables. That makes reference cycles, which hold all that these frames refer
    to, an image's copies for example, until the garbage collector comes to them: much later, because it goes by the
    number of objects and not by their bytes. Frames that still run are left alone.
    """
    left, seen = [failure], set()
    while left:
        error = left.pop()
        if error is None or id(error) in seen:
            continue
        seen.add(id(error))
        traceback.clear_frames(error.__traceback__)
        left += [error.__cause__, error.__context__]
