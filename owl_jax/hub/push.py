"""Uploads a model directory to the hub."""

from __future__ import annotations

from pathlib import Path

from owl_jax.errors import UserError
from owl_jax.hub.errors import LOG_IN, as_user_errors
from owl_jax.hub.names import HubName, parse_name
from owl_jax.hub.snapshot import bars_on_a_terminal

# What an earlier upload may have left that would be read instead of the new files.
_REPLACED = (
    *("*.safetensors", "*.safetensors.index.json", "pytorch_model*", "adapter_model.bin"),
    *("config.json", "adapter_config.json", "owl_jax_base.json", "source_config.json"),
    *("params/*", "SHA256SUMS"),
)


def open_repository(flag: str, private: bool | None) -> HubName:
    """Creates a repository for models, unless it exists.

    flag: ORG/NAME. private: None is the hub's or the organisation's default; of an existing
      repository nothing changes.

    Raises UserError for another form, and if the hub does not allow it.
    """
    from huggingface_hub import HfApi
    from huggingface_hub.errors import HfHubHTTPError

    name = parse_name(flag)
    if name is None or name.revision or name.path or name.kind != "model":
        raise UserError(f"--push={flag}: expected ORG/NAME, a model on the hub")
    with as_user_errors(name, "upload"):
        api = HfApi(library_name="owl_jax")
        api.create_repo(name.repo, private=private, exist_ok=True)
        try:
            api.auth_check(name.repo, write=True)
        except HfHubHTTPError as error:
            # Servers like the hub may not have this check.
            if (status := error.response.status_code) in (401, 403):
                raise UserError(
                    f"--push={flag}: you may not write there (HTTP {status}); {LOG_IN}, with a "
                    "token that may write"
                ) from None
    return name


def push(directory: Path, name: HubName, message: str) -> str:
    """Uploads all files of a directory as one change; returns the address of the commit.

    Files of an earlier model are removed from the repository, others of it stay. Raises UserError.
    """
    from huggingface_hub import HfApi

    with as_user_errors(name, "upload"), bars_on_a_terminal():
        commit = HfApi(library_name="owl_jax").upload_folder(
            repo_id=name.repo,
            folder_path=directory,
            commit_message=message,
            delete_patterns=list(_REPLACED),
        )
    return str(commit.commit_url)
