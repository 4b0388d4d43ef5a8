"""What people expect in a repository: workflows, templates, citation, version, changelog."""

from __future__ import annotations

import importlib.util
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import ccdn_ops

yaml = pytest.importorskip("yaml", reason="ccdn is not installed, only ccdn_ops")

ROOT = Path(__file__).resolve().parents[1]
GITHUB = ROOT / ".github"
WORKFLOWS = sorted((GITHUB / "workflows").glob("*.yml"))
FORMS = sorted(p for p in (GITHUB / "ISSUE_TEMPLATE").glob("*.yml") if p.name != "config.yml")
# Of the schemas that check-jsonschema brings along: nothing is downloaded.
SCHEMAS = {
    "github-workflows": WORKFLOWS,
    "github-issue-forms": FORMS,
    "github-issue-config": [GITHUB / "ISSUE_TEMPLATE" / "config.yml"],
    "citation-file-format": [ROOT / "CITATION.cff"],
}
TARGETS = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
VERSION_HEADING = re.compile(r"Unreleased|(\d+)\.(\d+)\.(\d+) - \d{4}-\d\d-\d\d")


def problems(schema: str, *files: Path) -> str:
    """What check-jsonschema finds in files; "" for nothing."""
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}"]
    done = subprocess.run(
        [*command, *map(str, files)], capture_output=True, text=True, check=False, timeout=300
    )
    return "" if done.returncode == 0 else done.stdout + done.stderr


@pytest.mark.parametrize("schema", SCHEMAS)
def test_files_match_their_schemas(schema: str, tmp_path: Path) -> None:
    if importlib.util.find_spec("check_jsonschema") is None:
        pytest.skip("check-jsonschema, of the extra `test`, is not installed")
    files = SCHEMAS[schema]
    assert files
    assert not (found := problems(schema, *files)), found
    wrong = tmp_path / files[0].name
    wrong.write_text(files[0].read_text("utf-8") + "nonsense_key: [1]\n", encoding="utf-8")
    assert problems(schema, wrong)


def jobs(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load(path.read_text("utf-8"))["jobs"]
    assert found
    return found


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.name)
def test_workflows_run_what_is_there(path: Path) -> None:
    """Their make targets and scripts exist, their actions have a version, no job can hang."""
    for name, job in jobs(path).items():
        assert set(job.get("needs", "").split()) <= jobs(path).keys()
        assert job["runs-on"]
        assert "timeout-minutes" in job or name == "publish"
        for step in job["steps"]:
            if "uses" in step:
                assert re.search(r"@v\d+(\.\d+)*$", step["uses"]), step
                continue
            for line in step["run"].splitlines():
                program, *words = line.split()
                if program == "make":
                    assert set(words) <= TARGETS, line
                elif "/" in program:
                    assert (ROOT / program).is_file(), line
                else:
                    assert program == "python", line


def test_the_oldest_and_the_newest_python_are_tested() -> None:
    text = (ROOT / "pyproject.toml").read_text("utf-8")
    named = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', text)
    (tests,) = [path for path in WORKFLOWS if path.name == "tests.yml"]
    assert jobs(tests)["test"]["strategy"]["matrix"]["python-version"] == [named[0], named[-1]]
    assert f'requires-python = ">={named[0]}"' in text
    (minors,) = re.findall(r'^build = "cp3\{([\d,]+)\}-', text, re.MULTILINE)
    assert [f"3.{minor}" for minor in minors.split(",")] == named


def test_both_packages_have_the_version() -> None:
    import ccdn

    assert ccdn.__version__ == ccdn_ops.__version__
    sources = "".join(p.read_text("utf-8") for p in (ROOT / "ccdn").glob("*.py"))
    assert ccdn_ops.__version__ not in sources  # it is written in one place


def test_the_changelog_has_dated_versions_newest_first() -> None:
    """`## Unreleased`, then `## X.Y.Z - YYYY-MM-DD`; a release is the newest of them."""
    text = (ROOT / "CHANGELOG.md").read_text("utf-8")
    headings = re.findall(r"^## (.*)$", text, re.MULTILINE)
    assert headings
    found = [VERSION_HEADING.fullmatch(heading) for heading in headings]
    assert all(found), headings
    versions = [tuple(map(int, match.groups())) for match in found if match and match[1]]
    assert versions == sorted(set(versions), reverse=True)
    assert "Unreleased" not in headings[1:]
    if "dev" not in ccdn_ops.__version__:
        newest = next(heading for heading in headings if heading != "Unreleased")
        assert newest.startswith(f"{ccdn_ops.__version__} - ")


def test_what_the_community_files_name_is_there() -> None:
    for name in ("SECURITY.md", "CODE_OF_CONDUCT.md"):
        text = (ROOT / name).read_text("utf-8")
        for link in re.findall(r"\]\((?!https:)([^)#]+)", text):
            assert (ROOT / link).exists(), link
    assert (GITHUB / "PULL_REQUEST_TEMPLATE.md").is_file()
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text("utf-8"))
    assert citation["license"] in (ROOT / "pyproject.toml").read_text("utf-8")
    assert citation["preferred-citation"]["doi"].startswith("10.")
