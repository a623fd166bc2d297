from __future__ import annotations

from pathlib import Path

import pytest

from compose.compose_file import read_compose, seconds_of
from compose.image import read_image
from compose.interpolation import ComposeError, interpolate, read_env_file
from compose.places import Places

DOCKER = Path(__file__).parents[2] / "docker"
VARIABLES = {"NAME": "value", "EMPTY": ""}
PLACES = Places(
    {"/run/it": Path("/tmp/w/run"), "/run/it/deep": Path("/tmp/w/deep"), "/tmp": Path("/tmp/w/own")},
    {"server": "127.0.0.1", "0.0.0.0": "127.0.0.1"},
    {8731: 4000},
)


def compose(folder: Path, text: str) -> Path:
    file = folder / "compose.yaml"
    file.write_text(text)
    return file


class TestInterpolation:
    @pytest.mark.parametrize(
        ("text", "expected"),
        [
            ("$NAME-x", "value-x"),
            ("a ${NAME}b", "a valueb"),
            ("${NAME:-other}", "value"),
            ("${EMPTY:-other}", "other"),
            ("${EMPTY-other}", ""),
            ("${MISSING:-}", ""),
            ("${MISSING-http://a:1}", "http://a:1"),
            ('"$$(cat $$X)"', '"$(cat $X)"'),
        ],
    )
    def test_variables_are_replaced(self, text: str, expected: str) -> None:
        assert interpolate({"a": [text, 1]}, VARIABLES) == {"a": [expected, 1]}

    @pytest.mark.parametrize("text", ["${MISSING}", "$MISSING", "${NAME", "$1", "${NAME:?no}"])
    def test_what_cannot_be_replaced_is_an_error(self, text: str) -> None:
        with pytest.raises(ComposeError):
            interpolate(text, VARIABLES)

    def test_an_env_file_is_read(self) -> None:
        assert read_env_file("# why\n\nA=1\nB=unix:/a=b,c\nC=\n") == {"A": "1", "B": "unix:/a=b,c", "C": ""}

    @pytest.mark.parametrize("line", ["A", "export A=1", 'A="1"', "A=1 # one"])
    def test_lines_that_engines_read_otherwise_are_errors(self, line: str) -> None:
        with pytest.raises(ComposeError):
            read_env_file(line)


class TestComposeFile:
    def test_services_come_after_what_they_wait_for(self, tmp_path: Path) -> None:
        file = compose(
            tmp_path,
            "services:\n"
            "  b: {image: i, depends_on: {c: {condition: service_healthy}, d: {condition: service_started, "
            "required: false}}}\n"
            "  c: {image: i, command: [run, $A], restart: always, stop_grace_period: 1m30s, ports: ['1.2.3.4:5:678']}\n"
            "  d: {image: i, profiles: [other]}\n",
        )
        services = read_compose(file, {"A": "x"}, ["some"])
        assert list(services) == ["c", "b"]
        assert services["b"].depends_on == {"c": "service_healthy"}
        c = services["c"]
        assert (c.command, c.restarts, c.stop_seconds, c.ports) == (("run", "x"), True, 90.0, (678,))

    @pytest.mark.parametrize(
        "services",
        [
            "{a: {image: i, comand: [x]}}",  # no such key
            "{a: {image: i, deploy: {resources: {limits: {memory: 5 apples}}}}}",
            "{a: {image: i, depends_on: [b]}, b: {image: i, profiles: [other]}}",  # which is not to run
            "{a: {image: i, depends_on: [b]}, b: {image: i, depends_on: [a]}}",
            "{a: {image: i, volumes: ['nowhere:/x']}}",  # no such volume
            "{a: {image: i, healthcheck: {test: [NONSENSE], timeout: 1s, start_period: 1s}}}",
        ],
    )
    def test_a_wrong_file_is_an_error(self, tmp_path: Path, services: str) -> None:
        with pytest.raises(ComposeError):
            read_compose(compose(tmp_path, f"services: {services}"), {}, [])

    @pytest.mark.parametrize(("text", "seconds"), [("15s", 15), ("1m30s", 90), ("250ms", 0.25), ("2h", 7200)])
    def test_durations(self, text: str, seconds: float) -> None:
        assert seconds_of(text) == seconds

    @pytest.mark.parametrize("text", ["", "15", "s", "1 s", "1x"])
    def test_what_is_no_duration(self, text: str) -> None:
        with pytest.raises(ComposeError):
            seconds_of(text)

    @pytest.mark.parametrize(
        ("profiles", "names"),
        [
            ("cpu", {"cache", "replica", "server"}),
            ("gpu", {"cache", "replica-gpu", "server"}),
            ("cpu,observability", {"cache", "replica", "server", "prometheus", "grafana"}),
        ],
    )
    def test_profiles_of_ours(self, profiles: str, names: set[str]) -> None:
        variables = read_env_file((DOCKER / ".env").read_text())
        assert read_compose(DOCKER / "compose.yaml", variables, profiles.split(",")).keys() == names

    def test_ours_stands_without_the_env_file(self) -> None:
        assert read_compose(DOCKER / "compose.yaml", {}, ["cpu", "gpu", "observability", "prewarm"])

    def test_our_processes_write_to_their_volumes_alone(self) -> None:
        services = read_compose(DOCKER / "compose.yaml", {}, ["cpu", "gpu", "prewarm"])
        assert {name for name, service in services.items() if service.tmpfs != ("/tmp",)} == set()
        assert services["replica"].volumes.keys() == {"/run/instgenie", "/var/lib/instgenie/costs", "/models"}


def test_an_image_has_what_its_last_stage_copies(tmp_path: Path) -> None:
    file = tmp_path / "Dockerfile"
    file.write_text(
        'FROM a AS build\nCOPY x /x\nFROM a\nCOPY --from=build /y /y\nCOPY b/one \\\n  two /opt/\nENTRYPOINT ["run"]\n'
    )
    image = read_image(file, Path("/src"))
    assert image.files == {"/opt/one": Path("/src/b/one"), "/opt/two": Path("/src/two")}
    assert image.entrypoint == ("run",)


@pytest.mark.parametrize(
    ("text", "here"),
    [
        ("unix:/run/it/a.sock,unix:/run/it/b.sock", "unix:/tmp/w/run/a.sock,unix:/tmp/w/run/b.sock"),
        ("/run/it/deep/x", "/tmp/w/deep/x"),
        ('"$(cat /tmp/address)"', '"$(cat /tmp/w/own/address)"'),
        ("http://server:8731/readyz", "http://127.0.0.1:4000/readyz"),
        ("0.0.0.0", "127.0.0.1"),
        ("8731", "4000"),
        ("/run/items server_toml 18731 /a/tmp", "/run/items server_toml 18731 /a/tmp"),
    ],
)
def test_texts_are_as_a_process_here_needs_them(text: str, here: str) -> None:
    assert PLACES.here(text) == here


def test_texts_stay_as_they_are_where_there_is_nothing_to_replace() -> None:
    assert Places({}, {}, {}).here("http://server:8731/tmp") == "http://server:8731/tmp"
