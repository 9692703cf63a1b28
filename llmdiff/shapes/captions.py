"""Captions of scenes: the base's own template, natural wordings, and wordings that no picture is ever paired with.

In a wording, ``x``, ``y``, ``z`` stand for things ("small red circle"); ``xc``, ``xs``, ``xz`` for one's colour, shape
and size; ``r`` and ``r2`` for a phrase of the relation of x to y and of y to z; ``i`` and ``i2`` for the inverse ones;
``go`` for the way from y to x.
"""

from __future__ import annotations

import numpy as np

from llmdiff.shapes.scene import INVERSE, Scene, Thing

Forms = dict[int, tuple[str, ...]]  # by the number of things

NUMBER = {2: "two", 3: "three"}

PHRASES = {
    "left of": ("left of", "to the left of", "on the left side of"),
    "right of": ("right of", "to the right of", "on the right side of"),
    "above": ("above", "over", "higher than"),
    "below": ("below", "under", "beneath"),
}
WAYS = {"left of": "left", "right of": "right", "above": "up", "below": "down"}

TEMPLATE: Forms = {
    1: ("a {x}",),
    2: ("a {x} {R} a {y}",),
    3: ("a {x} {R} a {y} {R2} a {z}",),
}
NATURAL: Forms = {
    1: (
        "a picture of a {x}",
        "there is a {x}",
        "we see only a {x}",
        "a {xs} that is {xc} and {xz}",
    ),
    2: (
        "a picture of a {x} {r} a {y}",
        "{r} the {y} there is a {x}",
        "there is a {y} and {r} it is a {x}",
        "we see a {x} . it is {r} the {y}",
        "two things , a {x} and a {y} . the first is {r} the second",
        "a {y} with a {x} {r} it",
        "a {xs} that is {xc} and {xz} sits {r} a {ys} that is {yc} and {yz}",
        "the thing {r} the {y} is a {x}",
    ),
    3: (
        "a picture of a {x} {r} a {y} and the {y} is {r2} a {z}",
        "there is a {y} . {r} it is a {x} and {i2} it is a {z}",
        "we see a {x} . it is {r} the {y} . {i2} the {y} there is a {z}",
        "three things , a {x} and a {y} and a {z} . the first is {r} the second and the second is {r2} the third",
    ),
}
UNSEEN: Forms = {
    1: ("a {xc} {xs} of {xz} size",),
    2: (
        "start at the {y} and go {go} to find a {x}",
        "a {y} can be seen and a {x} lies {r} that",
        "a {xc} {xs} of {xz} size {r} a {yc} {ys} of {yz} size",
        "look {r} the {y} and you will find a {x}",
    ),
    3: ("a {y} can be seen . a {x} lies {r} that and a {z} lies {i2} that",),
}
# What a language model is given after each caption: words at which it says what the whole caption means.
QUESTIONS = ("first", "second", "third")
PROMPT = "{caption} : " + " ".join(QUESTIONS)
NO_THING = "no no no no"
WORDINGS = {"template": TEMPLATE, "natural": NATURAL, "unseen_wording": UNSEEN}


def caption(scene: Scene, wording: str, rng: np.random.Generator) -> str:
    """Return a caption of the scene in a random wording of the named set ("template", "natural", "unseen_wording")."""
    forms = WORDINGS[wording][len(scene.things)]
    return str(rng.choice(forms)).format(**_fields(scene, rng))


def facts(scene: Scene, rng: np.random.Generator) -> list[str]:
    """Return every fact of the scene as a short sentence, in random order: a model that restates it must know these."""
    things = scene.things
    found = [f"there are {NUMBER[len(things)]} things" if len(things) > 1 else "there is one thing"]
    for thing in things:
        name = _name(thing, things)
        found += [f"{name} is {thing.size}"]
        found += [f"{name} is a {thing.shape}"] if thing.shape not in name else [f"{name} is {thing.colour}"]
    for a, relation, b in zip(things, scene.relations, things[1:], strict=False):
        for one, holds, other in ((a, relation, b), (b, INVERSE[relation], a)):
            described = f"the thing {holds} {_name(other, things)}"
            found += [f"{described} is {one.colour}", f"{described} is a {one.shape}"]
    return [found[i] for i in rng.permutation(len(found))]


def answers(scene: Scene) -> list[str]:
    """Return what each of `QUESTIONS` asks for, in four words: where its thing is, then its size, colour and shape.

    Things are listed from the left or from above, and each one's place is beside the next thing (the last one's, beside
    the one before).
    """
    scene = canonical(scene)
    places = [*scene.relations, *(INVERSE[relation] for relation in scene.relations[-1:])] or ["alone"]
    found = [f"{place.split()[0]} {t.size} {t.kind}" for place, t in zip(places, scene.things, strict=True)]
    return found + [NO_THING] * (len(QUESTIONS) - len(found))


def document(scene: Scene, wording: str, rng: np.random.Generator, end: str, facts_shown: int = 1) -> str:
    """Return text for a language model: caption, questions, end mark, the scene restated, some of its facts."""
    sentences = [caption(canonical(scene), "template", rng), *facts(scene, rng)[:facts_shown]]
    return f"{PROMPT.format(caption=caption(scene, wording, rng))}{end}{' . '.join(sentences)}{end}"


def canonical(scene: Scene) -> Scene:
    """Return the scene with its things listed from the left or from above, whichever thing the caption began with."""
    if scene.relations[:1] in (("right of",), ("below",)):
        return Scene(scene.things[::-1], tuple(INVERSE[relation] for relation in scene.relations[::-1]))
    return scene


def _name(thing: Thing, things: tuple[Thing, ...]) -> str:
    """Return the shortest description that only this thing fits."""
    if sum(other.colour == thing.colour for other in things) == 1:
        return f"the {thing.colour} thing"
    if sum(other.shape == thing.shape for other in things) == 1:
        return f"the {thing.shape}"
    return f"the {thing.kind}"


def _fields(scene: Scene, rng: np.random.Generator) -> dict[str, str]:
    fields: dict[str, str] = {}
    for name, thing in zip("xyz", scene.things, strict=False):
        fields[name] = f"{thing.size} {thing.kind}"
        fields |= {f"{name}c": thing.colour, f"{name}s": thing.shape, f"{name}z": thing.size}
    for suffix, relation in zip(("", "2"), scene.relations, strict=False):
        fields[f"R{suffix}"] = relation
        fields[f"r{suffix}"] = str(rng.choice(PHRASES[relation]))
        fields[f"i{suffix}"] = str(rng.choice(PHRASES[INVERSE[relation]]))
        fields[f"go{suffix}"] = WAYS[relation]
    return fields
