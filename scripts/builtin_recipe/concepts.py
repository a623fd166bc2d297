"""What the embedded model can draw: pictured concepts, drawn shapes, and nothing at all; and how each is captioned."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass

# Fluent emoji by code point, and the names people use for them; the first name is the concept's label.
PICTURED: dict[str, tuple[str, ...]] = {
    "1f34e": ("red apple", "apple", "ripe apple"),
    "1f34c": ("banana", "ripe banana", "peeled banana"),
    "1f353": ("strawberry", "berry", "ripe strawberry"),
    "1f349": ("watermelon", "slice of watermelon", "melon slice"),
    "1f347": ("bunch of grapes", "grapes", "grape"),
    "1f350": ("pear", "green pear", "ripe pear"),
    "1f34a": ("orange", "tangerine", "mandarin"),
    "1f955": ("carrot", "orange carrot", "fresh carrot"),
    "1f354": ("hamburger", "burger", "cheeseburger"),
    "1f369": ("doughnut", "donut", "frosted donut"),
    "1f344": ("mushroom", "toadstool", "red mushroom"),
    "2615": ("cup of coffee", "coffee", "hot drink"),
    "1f41e": ("ladybug", "ladybird", "lady beetle"),
    "1f427": ("penguin", "black penguin", "antarctic bird"),
    "1f424": ("baby chick", "chick", "yellow chick"),
    "1f437": ("pig", "pig face", "piglet"),
    "1f43c": ("panda", "panda bear", "panda face"),
    "1f438": ("frog", "green frog", "toad"),
    "1f33b": ("sunflower", "yellow flower", "sun flower"),
    "1f332": ("tree", "evergreen tree", "pine tree"),
    "26bd": ("soccer ball", "football", "white ball with spots"),
    "1f388": ("balloon", "red balloon", "party balloon"),
    "1f381": ("gift", "present", "wrapped gift"),
    "1f3e0": ("house", "home", "family house"),
    "1f34b": ("lemon", "yellow lemon", "citrus"),
    "1f34d": ("pineapple", "ripe pineapple", "tropical fruit"),
    "1f352": ("cherries", "red cherries", "pair of cherries"),
    "1f951": ("avocado", "half avocado", "sliced avocado"),
    "1f33d": ("ear of corn", "corn", "maize"),
    "1f966": ("broccoli", "green broccoli", "wild cabbage"),
    "1f355": ("pizza", "slice of pizza", "pizza slice"),
    "1f35f": ("french fries", "fries", "chips"),
    "1f366": ("ice cream", "soft ice cream", "ice cream cone"),
    "1f382": ("birthday cake", "cake", "cake with candles"),
    "1f36d": ("lollipop", "candy on a stick", "sweet lollipop"),
    "1f431": ("cat", "kitten", "cat face"),
    "1f436": ("dog", "puppy", "dog face"),
    "1f98a": ("fox", "red fox", "fox face"),
    "1f981": ("lion", "lion face", "king of the jungle"),
    "1f430": ("rabbit", "bunny", "rabbit face"),
    "1f989": ("owl", "brown owl", "wise bird"),
    "1f420": ("tropical fish", "fish", "striped fish"),
    "1f419": ("octopus", "octopus with tentacles", "sea creature"),
    "1f422": ("turtle", "tortoise", "green turtle"),
    "1f98b": ("butterfly", "blue butterfly", "pretty insect"),
    "1f41d": ("bee", "honeybee", "bumblebee"),
    "1f339": ("rose", "red rose", "red flower"),
    "1f335": ("cactus", "green cactus", "desert plant"),
    "1f334": ("palm tree", "palm", "tropical tree"),
    "1f31e": ("sun", "smiling sun", "sun with face"),
    "2601": ("cloud", "white cloud", "cloud in the sky"),
    "1f525": ("fire", "flame", "hot flame"),
    "1f308": ("rainbow", "colorful rainbow", "colourful arch"),
    "26c4": ("snowman", "snow man", "man of snow"),
    "1f697": ("car", "red car", "automobile"),
    "1f68c": ("bus", "school bus", "city bus"),
    "1f680": ("rocket", "space rocket", "rocket ship"),
    "26f5": ("sailboat", "boat", "sailing boat"),
    "1f3c0": ("basketball", "orange ball", "ball for basketball"),
    "1f511": ("key", "golden key", "door key"),
    "1f514": ("bell", "golden bell", "ringing bell"),
    "1f451": ("crown", "golden crown", "crown of a king"),
    "1f48e": ("gem", "diamond gem", "blue gem stone"),
    "1f47b": ("ghost", "white ghost", "spooky ghost"),
}

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (220, 38, 38), "orange": (245, 130, 32), "yellow": (250, 214, 40), "green": (46, 160, 67),
    "blue": (37, 99, 235), "purple": (128, 58, 200), "pink": (244, 114, 182), "brown": (121, 77, 44),
    "white": (245, 245, 245), "black": (24, 24, 27),
}  # fmt: skip

SHAPES = ("circle", "square", "triangle", "diamond", "star", "heart", "ring", "cross")

NOTHING = ("empty background", "nothing", "plain background", "remove the object", "just the background", "remove it")

# A size word and the share of the mask that the object then spans; most captions name no size.
SIZES: dict[str, tuple[float, float]] = {
    "small": (0.4, 0.6), "tiny": (0.35, 0.5), "big": (0.92, 1.0), "large": (0.92, 1.0),
}  # fmt: skip

CAPTIONS = ("{}", "a {}", "a picture of a {}", "draw a {}", "a {} here", "add a {}")
# Kept out of training: the evaluation asks with these.
HELD_OUT_CAPTIONS = ("put a {} in there", "one {} please", "a nice {}")
HELD_OUT_NOTHING = ("erase it", "clean background", "leave it empty", "take the object away")


@dataclass(frozen=True, slots=True)
class Concept:
    """One thing that can be asked for: `kind` is pictured, shape or nothing."""

    kind: str
    label: str
    names: tuple[str, ...]
    code: str = ""
    colour: str = ""


def all_concepts() -> list[Concept]:
    """Every concept, in a fixed order: pictured, then shapes by colour, then nothing."""
    pictured = [Concept("pictured", names[0], names, code=code) for code, names in PICTURED.items()]
    shapes = [
        Concept("shape", f"{colour} {shape}", (f"{colour} {shape}",), code=shape, colour=colour)
        for shape in SHAPES
        for colour in COLOURS
    ]
    return [*pictured, *shapes, Concept("nothing", "nothing", NOTHING)]


CONCEPTS = tuple(all_concepts())


def phrase(form: str, name: str) -> str:
    """The caption form filled with the name, with the right article."""
    takes_an = name[0] in "aeio" or name.startswith(("umbrella", "hourglass"))
    return form.replace("a {}", f"{'an' if takes_an else 'a'} {{}}").format(name)


def caption(concept: Concept, rng: random.Random, size_word: str = "") -> str:
    """A training caption of the concept."""
    name = rng.choice(concept.names)
    return name if concept.kind == "nothing" else phrase(rng.choice(CAPTIONS), f"{size_word} {name}".strip())


def every_caption(concept: Concept) -> list[str]:
    """All captions that `caption` can return."""
    if concept.kind == "nothing":
        return list(concept.names)
    named = [f"{word} {name}".strip() for word in ("", *SIZES) for name in concept.names]
    return [phrase(form, name) for form in CAPTIONS for name in named]


def shape_outline(shape: str, points: int = 48) -> list[list[tuple[float, float]]]:
    """Polygons of a shape in the unit square, outer first; later ones are holes."""
    turn = [2 * math.pi * i / points for i in range(points)]
    circle = [(0.5 + 0.5 * math.cos(a), 0.5 + 0.5 * math.sin(a)) for a in turn]
    if shape == "circle":
        return [circle]
    if shape == "ring":
        return [circle, [(0.5 + 0.28 * math.cos(a), 0.5 + 0.28 * math.sin(a)) for a in turn]]
    if shape == "square":
        return [[(0.03, 0.03), (0.97, 0.03), (0.97, 0.97), (0.03, 0.97)]]
    if shape == "triangle":
        return [[(0.5, 0.03), (1.0, 0.95), (0.0, 0.95)]]
    if shape == "diamond":
        return [[(0.5, 0.0), (0.92, 0.5), (0.5, 1.0), (0.08, 0.5)]]
    if shape == "cross":
        a, b = 0.33, 0.67
        return [[(a, 0), (b, 0), (b, a), (1, a), (1, b), (b, b), (b, 1), (a, 1), (a, b), (0, b), (0, a), (a, a)]]
    if shape == "star":
        radius = [0.52 if i % 2 == 0 else 0.21 for i in range(10)]
        angle = [math.pi * (i / 5 - 0.5) for i in range(10)]
        return [[(0.5 + r * math.cos(a), 0.54 + r * math.sin(a)) for r, a in zip(radius, angle, strict=True)]]
    if shape == "heart":
        x = [16 * math.sin(a) ** 3 for a in turn]
        y = [13 * math.cos(a) - 5 * math.cos(2 * a) - 2 * math.cos(3 * a) - math.cos(4 * a) for a in turn]
        return [[(0.5 + u / 34, 0.46 - v / 34) for u, v in zip(x, y, strict=True)]]
    raise ValueError(f"unknown shape {shape!r}, expected one of {', '.join(SHAPES)}")
