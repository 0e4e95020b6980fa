"""Policies by name: found without importing them, and refused with the nearest name."""

import subprocess
import sys
from pathlib import Path

import pytest

from policies import registry
from policies.chunk import ChunkPolicy
from policies.config import Config
from policies.learnt import LearntPolicy
from policies.spec import InputError
from tests.policies.toy import STATE, random_batch, stats_of


def test_names_are_the_files_that_define_a_policy():
    names = registry.policy_names()
    assert {"diffusion", "flow", "regression"} <= set(names)
    assert names == tuple(sorted(names))
    assert not {"chunk", "learnt", "base", "config", "registry"} & set(names)


@pytest.mark.parametrize("name", registry.policy_names())
def test_every_policy_has_its_class_and_config_in_its_own_file(name):
    kind, config = registry.policy_class(name), registry.config_class(name)
    assert issubclass(kind, LearntPolicy) and kind.__module__ == config.__module__ == f"policies.{name}"
    assert issubclass(config, Config) and kind.Config is config
    assert len(registry.description(name)) > 20 and "\n" not in registry.description(name)


@pytest.mark.parametrize("name", registry.policy_names())
def test_defaults_are_a_whole_config_that_survives_json(name):
    config = registry.config_class(name)()
    assert type(config).model_validate(config.model_dump(mode="json")) == config


def test_listing_imports_no_torch():
    code = "import sys; from policies import registry; registry.policy_names(); registry.description('flow'); print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "False"


def test_unknown_names_get_the_nearest():
    for call in (registry.policy_class, registry.config_class, registry.description):
        with pytest.raises(InputError, match="policy 'difusion' is unknown; did you mean 'diffusion'"):
            call("difusion")


def test_a_config_of_another_policy_is_refused():
    flow = registry.policy_class("flow")
    batch = random_batch(STATE, 4)
    normalizer = flow.fit_normalizer(flow.Config(), STATE, stats_of(batch, STATE), [])
    with pytest.raises(InputError, match="policy 'diffusion': expected a DiffusionConfig, found FlowConfig"):
        registry.create("diffusion", flow.Config(), STATE, normalizer)


def test_a_new_file_is_found_and_two_policies_in_one_are_refused(tmp_path: Path):
    source = '"""Copies {0}.\n\nMore."""\n\nclass {1}(ChunkPolicy):\n    Config = FlowConfig\n\n\nclass Helper:\n    Config: type\n'
    (tmp_path / "parrot.py").write_text(source.format("the flow", "ParrotPolicy"))
    (tmp_path / "plain.py").write_text("Config = 3\n")
    assert registry.scan(tmp_path) == {"parrot": ("ParrotPolicy", "Copies the flow.")}
    (tmp_path / "two.py").write_text("class A:\n    Config = int\n\n\nclass B:\n    Config: type = int\n")
    registry.scan.cache_clear()
    with pytest.raises(InputError, match=r"/two.py defines 2 policies \(A, B\), expected one per file"):
        registry.scan(tmp_path)
    registry.scan.cache_clear()


def test_abstract_policies_cannot_be_built():
    assert ChunkPolicy.__abstractmethods__ == {"errors", "generate"}
