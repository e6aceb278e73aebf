"""A tokenizer from the Hugging Face hub, only where the user names one: everything else works without a network."""

from pathlib import Path

from ...validation.errors import EnvironmentFailure, InputError

SCHEME = "hf:"
FILES = ("tokenizer.json", "vocab.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")


def tokenizer(name: str) -> Path:
    """Fetch the tokenizer's files of `hf:ORG/MODEL` or `hf:ORG/MODEL@REVISION` into the hub's cache; give the folder.

    The endpoint, the cache and the token are those of huggingface_hub: HF_ENDPOINT, HF_HOME, HF_TOKEN.

    Raises:
        EnvironmentFailure: huggingface_hub is not installed, or the hub cannot be reached.
        InputError: there is no such model or revision, or it has no tokenizer.
    """
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.errors import (
            EntryNotFoundError,
            HfHubHTTPError,
            HFValidationError,
            LocalEntryNotFoundError,
        )
        from huggingface_hub.utils import disable_progress_bars
    except ModuleNotFoundError as error:
        raise EnvironmentFailure(
            f"{name} needs the Python package huggingface_hub, which is not installed: "
            "pip install 'bgevis-convert[embed]'"
        ) from error
    disable_progress_bars()
    model, _, revision = name.removeprefix(SCHEME).partition("@")
    found: list[Path] = []
    for file in FILES:
        try:
            found.append(Path(hf_hub_download(model, file, revision=revision or None)))
        except LocalEntryNotFoundError as error:  # neither there nor reached; more than one reason, so before the next
            raise _unreachable(name, error) from error
        except EntryNotFoundError:
            continue
        except (HFValidationError, HfHubHTTPError) as error:
            status = getattr(getattr(error, "response", None), "status_code", None)
            reason = f"{name}: {str(error).strip().splitlines()[0]}"
            if status is not None and status >= 500:
                raise EnvironmentFailure(f"{reason}; try again later, or pass --tokenizer DIR") from error
            raise InputError(f"{reason}; check the name, or pass --tokenizer DIR") from error
        except (OSError, RuntimeError) as error:
            raise _unreachable(name, error) from error
    if not any(path.name in FILES[:2] for path in found):
        raise InputError(f"{name} has neither tokenizer.json nor vocab.txt; pass --tokenizer DIR")
    return found[0].parent


def _unreachable(name: str, error: Exception) -> EnvironmentFailure:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return EnvironmentFailure(f"{name}: the hub cannot be reached ({reason}); pass --tokenizer DIR")
