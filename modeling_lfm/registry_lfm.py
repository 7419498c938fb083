"""One registry for every kind of thing that a name chooses: towers, fusions, kinds of input, methods, benchmarks."""

import difflib


def suggest(word, known):
    """The end of an error about a wrong name: the nearest known one, or all of them.

    Args:
        word (`str`): what was given.
        known (iterable of `str`): what could have been.

    Returns:
        `str`: `"did you mean 'concat'?"` or `"choose one of concat, sum."`
    """
    names = [str(name) for name in known]
    near = difflib.get_close_matches(str(word), names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(names) or 'none'}."


class Registry(dict):
    """A mapping from names to things of one kind, to which a file outside the package may add.

    Args:
        kind (`str`): what its things are called in messages, such as `"fusion"`.

    Example:

        ```python
        >>> from modeling_lfm.registry_lfm import Registry
        >>> FUSIONS = Registry("fusion")
        >>> @FUSIONS.register("sum")
        ... class SumFusion: ...
        >>> FUSIONS.find("sum") is SumFusion
        True

        ```
    """

    def __init__(self, kind):
        super().__init__()
        self.kind = kind

    def register(self, name, thing=None):
        """Enter `thing` under `name`; without `thing`, as the decorator of a class or function.

        The same definition may be entered twice, as a file that is imported again does.

        Raises:
            ValueError: the name is taken by another one.
        """
        if thing is None:
            return lambda thing: self.register(name, thing)
        taken = self.get(name)
        if taken is not None and _place(taken) != _place(thing):
            raise ValueError(f"the {self.kind} {name!r} exists already ({_place(taken)}); choose another name.")
        self[name] = thing
        return thing

    def find(self, name):
        """The thing called `name`.

        Raises:
            ValueError: there is none; the message names the nearest.
        """
        if name not in self:
            raise ValueError(f"unknown {self.kind} {name!r}; {suggest(name, self)}")
        return self[name]


def _place(thing):
    return f"{getattr(thing, '__module__', '?').rpartition('.')[2]}.{getattr(thing, '__qualname__', repr(thing))}"
