"""Requests: one model for the command line, the flow and the saved run, with the same help everywhere."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from prefect import Flow
from prefect.exceptions import ParameterBindError, ParameterTypeError

from llmdiff.data.sources import UnreadableShard
from llmdiff.encoder import EncoderConfig
from llmdiff.training.config import TrainConfig, TrainSettings
from pipelines.cli.commands import program
from pipelines.cli.options import option
from pipelines.requests.base import FILE, Request, checked, help_of
from pipelines.requests.encode import EncodeChoices, EncodeRequest
from pipelines.requests.evaluate import EvaluateRequest
from pipelines.requests.generate import GenerateRequest
from pipelines.requests.promote import PromoteRequest, PromotionPolicy
from pipelines.requests.register import RegisterRequest
from pipelines.requests.retrain import RetrainRequest
from pipelines.requests.study import Sizes, StudyRequest
from pipelines.requests.train import TrainRequest
from pipelines.runtime.stage import stage
from pipelines.runtime.train_run import run_name

STAGES: dict[str, type[Request]] = {
    "encode": EncodeRequest,
    "train": TrainRequest,
    "generate": GenerateRequest,
    "evaluate": EvaluateRequest,
    "register": RegisterRequest,
    "promote": PromoteRequest,
    "retrain": RetrainRequest,
    "study": StudyRequest,
}
WRITTEN_OTHERWISE = {
    "encode": {"settings", "captions", "readiness"},
    "train": {"settings", "ssh"},
    "generate": {"prompts"},
    "evaluate": set(),
    "promote": {"policy"},
    "retrain": {"readiness", "policy", "encoder_settings", "settings"},
}
"""Fields that a command takes from a file, from several options, or from what it finds."""


def flow_of(name: str) -> Flow[..., Any]:
    module = "pipelines.studies.flow" if name == "study" else f"pipelines.flows.{name}"
    found: Flow[..., Any] = getattr(import_module(module), f"{name}_flow").flow
    return found


@pytest.mark.parametrize("model", [*STAGES.values(), PromotionPolicy, Sizes])
def test_every_field_has_its_help(model: type[Request]) -> None:
    assert [name for name, info in model.model_fields.items() if not help_of(info)] == []


@pytest.mark.parametrize("name", STAGES)
def test_the_form_of_a_flow_is_its_request(name: str) -> None:
    """Prefect reads it from the signature and the docstring that `pipelines.runtime.stage` makes."""
    flow, request = flow_of(name), STAGES[name]
    form = flow.parameters.model_dump()
    assert list(form["properties"]) == list(request.model_fields)
    for field, info in request.model_fields.items():
        assert form["properties"][field]["description"] == help_of(info)
    assert set(form["required"]) == {field for field, info in request.model_fields.items() if info.is_required()}
    assert flow.name == name
    assert flow.description
    assert "Args:" not in flow.description


@pytest.mark.parametrize("name", WRITTEN_OTHERWISE)
def test_the_options_of_a_command_are_its_request(name: str) -> None:
    command = program().commands[name]
    options = {each.name: each for each in command.params}
    fields = {key: info for key, info in STAGES[name].model_fields.items() if key not in WRITTEN_OTHERWISE[name]}
    assert fields.keys() <= options.keys()
    for field, info in fields.items():
        assert getattr(options[field], "help", None) == help_of(info)
        assert options[field].required == info.is_required()
        if not info.is_required() and info.default is not None:
            assert options[field].default == info.default


def test_bounds_are_the_same_on_the_command_line_and_in_the_form() -> None:
    form = flow_of("train").parameters.model_dump()["properties"]["master_port"]
    assert (form["minimum"], form["maximum"], form["default"]) == (1, 65535, 29500)
    written = option("master_port", TrainRequest.model_fields["master_port"])
    (info,) = written.annotation.__metadata__
    assert (info.min, info.max, written.default) == (1, 65535, 29500)


def test_a_saved_request_is_the_same_again(tmp_path: Path) -> None:
    encode = EncodeRequest(data="d", store="s", settings=EncoderConfig(g=(1.0, 2.0), bands=2), captions=["a"])
    train = TrainRequest(store="s", diffusion="b", settings=TrainSettings(steps=3, validation_prompts=("x",)))
    for request in (encode, train, PromoteRequest(policy=PromotionPolicy(margin=0.5))):
        path = request.save(tmp_path / type(request).__name__)
        assert path.name == FILE
        assert type(request).model_validate_json(path.read_bytes()) == request


def test_a_flow_refuses_what_its_request_does() -> None:
    flow = flow_of("encode")
    given = flow.validate_parameters({"data": "d", "store": "s", "settings": {"bands": 2}})
    assert EncodeRequest(**given) == EncodeRequest(data="d", store="s", settings=EncoderConfig(bands=2))
    with pytest.raises(ParameterTypeError, match="size"):
        flow.validate_parameters({"data": "d", "store": "s", "size": 0})
    with pytest.raises(ParameterBindError, match="dataa"):
        flow(data="d", store="s", dataa="d")
    with pytest.raises(ParameterBindError, match="too many positional arguments"):
        flow("d", "s")


def test_a_wrong_value_is_one_line_that_names_it() -> None:
    with pytest.raises(ValueError, match=r"^encode: size: Input should be greater than or equal to 1, found 0$"):
        checked({"data": "d", "store": "s", "size": 0}, EncodeRequest, "encode")
    with pytest.raises(ValueError, match=r"^evaluate: size: Input should be a multiple of 8, found 12$"):
        checked({"size": 12}, EvaluateRequest, "evaluate")
    with pytest.raises(ValueError, match=r"^encode: sise: unknown; expected some of data, .*store, .*, found 3$"):
        checked({"data": "d", "store": "s", "sise": 3}, EncodeRequest, "encode")


@pytest.mark.timeout(900)
def test_a_stage_gives_its_function_the_request(in_process: Any) -> None:
    @stage("echo")
    def echo_flow(request: RegisterRequest) -> RegisterRequest:
        """Return what was asked for."""
        return request

    asked = RegisterRequest(adapter="a", tags={"parent": "models:/x/1"})
    assert echo_flow(asked) == asked
    answer = in_process.post("/flow_runs/filter", flows={"name": {"any_": ["echo"]}})
    assert [run["parameters"]["tags"] for run in answer] == [{"parent": "models:/x/1"}]


def test_retraining_hands_its_policy_on_as_it_is() -> None:
    policy = PromotionPolicy(margin=0.25, seed=3)
    request = RetrainRequest(data="d", store="s", diffusion="b", llm="l", policy=policy)
    assert request.to_promote() == PromoteRequest(policy=policy)
    assert request.to_train("f", 3, "models:/x/1").settings.start_from == "models:/x/1"
    assert (request.to_encode().llm, request.to_encode().readiness) == ("l", request.readiness)


def test_retraining_makes_pictures_ready_as_encode_does() -> None:
    ready = {"buckets": True, "bucket_step": 32, "flip": True}
    request = RetrainRequest(data="d", store="s", diffusion="b", llm="l", **ready).to_encode()
    assert {name: getattr(request, name) for name in ready} == ready


@pytest.mark.parametrize(("request_", "name"), [(EncodeRequest, "encode"), (RetrainRequest, "retrain")])
def test_choices_of_encoding_that_exclude_one_another(request_: type[Request], name: str) -> None:
    asked = {"data": "d", "store": "s", "diffusion": "b"}
    with pytest.raises(ValueError, match=f"^{name}: bucket_step: expected none without buckets, found 32$"):
        checked({**asked, "bucket_step": 32}, request_, name)
    with pytest.raises(ValueError, match=f"^{name}: device_map: expected none with ray, a GPU a process, found auto$"):
        checked({**asked, "device_map": "auto", "ray": "local"}, request_, name)


def test_the_request_that_retraining_encodes_by_has_every_choice_of_it() -> None:
    given = {"buckets": True, "bucket_step": 32, "flip": True, "vae_dtype": "bfloat16", "attention": "eager"}
    given |= {"encoder": "base", "ray": "local", "caption_columns": ["text"], "caption_lines": True}
    retrain = RetrainRequest(data="d", store="s", diffusion="b", llm="l", processes=4, **given)
    encode = retrain.to_encode()
    assert {name: getattr(encode, name) for name in EncodeChoices.model_fields} == {
        name: getattr(retrain, name) for name in EncodeChoices.model_fields
    }
    assert (encode.settings, encode.processes) == (retrain.encoder_settings, 1)


def test_numbers_before_folders_names_are_no_repeats_unless_asked(capsys: pytest.CaptureFixture[str]) -> None:
    from pipelines.flows.encode import announce

    shards = [UnreadableShard(name, "made up") for name in ("10_cats/", "2024_holiday/[0:9]", "a.parquet")]
    announce([*shards], {})
    announce([*shards[2:]], {})
    told = capsys.readouterr().err.splitlines()
    assert told[1] == (
        "numbers before folders' names: 10_cats/ 10, 2024_holiday/[0:9] 2024: "
        "no repeats unless training has --set kohya_repeats=true"
    )
    assert len(told) == 3


def test_a_run_without_the_later_settings_has_the_name_that_it_had() -> None:
    """The literal is of the version before them: an unfinished run of it goes on under its name."""
    draft = TrainConfig(store="runs/store", fingerprint="f", base="b", output="", steps=3)
    assert run_name(draft, "llm", draft.store) == "store-llm-467bf4dd"
    changes: list[dict[str, Any]] = [{"caption_choice": "one"}, {"flip": False}, {"flip_words": ("x",)}]
    drafts = [draft.model_copy(update=change) for change in [*changes, {"kohya_repeats": True}]]
    names = [run_name(changed, "llm", changed.store) for changed in drafts]
    assert len({"store-llm-467bf4dd", *names}) == 5


@pytest.mark.parametrize(
    ("others", "expected"),
    [({"processes": 2}, "several processes, a GPU each"), ({"ray": "local"}, "ray, a GPU a process")],
)
def test_one_process_alone_spreads_an_llm_over_gpus(others: dict[str, Any], expected: str) -> None:
    whole = {"data": "photos", "store": "store", "device_map": "auto"}
    assert EncodeRequest.model_validate(whole).device_map == "auto"
    with pytest.raises(ValueError, match=f"device_map: expected none with {expected}, found auto"):
        EncodeRequest.model_validate(whole | others)


def test_a_retrain_encodes_where_and_how_it_says() -> None:
    asked = {"data": "photos", "store": "store", "diffusion": "base", "device_map": "balanced", "attention": "eager"}
    encoding = RetrainRequest.model_validate(asked).to_encode()
    assert (encoding.device_map, encoding.attention) == ("balanced", "eager")
