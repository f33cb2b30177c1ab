"""Defines the methods in the tables of the LPNSR paper. They can be run with any models."""

from collections.abc import Callable, Sequence

from ..upscaler import BICUBIC, Method

ALL_OFF = {4: False, 3: False, 2: False}


def table_1(starts: Sequence[str]) -> list[Method]:
    """Methods of Table 1: ResShift, PreSet-A and, if an upscale model is given, PreSet-B, each with
    1 to 4 steps."""
    methods = [Method("bicubic", steps=0)]
    if starts:
        methods.append(Method(f"start alone: {starts[0]}", start=starts[0], steps=0))
    for steps in (1, 2, 3, 4):
        methods.append(Method(f"T={steps} ResShift", steps=steps, predictor_on=ALL_OFF))
        methods.append(Method(f"T={steps} PreSet-A", steps=steps))
        if starts:
            methods.append(Method(f"T={steps} PreSet-B", start=starts[0], steps=steps))
    return methods


def table_4(starts: Sequence[str]) -> list[Method]:
    """Methods of Table 4: four steps with the noise predictor off at t = 4, 3, 2, or all three."""
    start = starts[0] if starts else BICUBIC
    on = {4: True, 3: True, 2: True}
    methods = [Method("predictor on at 4, 3, 2", start=start)]
    for t in (4, 3, 2):
        methods.append(Method(f"off at t={t}", start=start, predictor_on=on | {t: False}))
    return [*methods, Method("off at 4, 3, 2", start=start, predictor_on=ALL_OFF)]


def table_6(starts: Sequence[str]) -> list[Method]:
    """Methods of Table 6: four steps, starting from bicubic interpolation or an upscale model."""
    return [Method(f"start {start}", start=start) for start in (BICUBIC, *starts)]


EXPERIMENTS: dict[str, Callable[[Sequence[str]], list[Method]]] = {
    "table1": table_1,
    "table4": table_4,
    "table6": table_6,
}
