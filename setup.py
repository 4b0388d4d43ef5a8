"""Builds ccdn_ops._C, the torch-free native module; everything else is in pyproject.toml.

Environment
    CCDN_NATIVE      auto (default): build when a C++ compiler is found; off: pure Python
    CCDN_CUDA        auto (default): with CUDA kernels when nvcc is found; on: fail without; off
    CCDN_CUDA_ARCHS  comma-separated, default 80,90,100,120; the last one also as PTX
    CXX, NVCC        compilers to use instead of those on PATH
    CXXFLAGS, LDFLAGS, NVCCFLAGS   appended
    CCDN_TORCH       on: also the module of direct calls in C++, for the torch that this Python
                     imports, with `pip install --no-build-isolation .`; only: nothing else; off
    MAX_JOBS         parallel compilations; default: cores, capped by free memory
"""

from __future__ import annotations

import importlib.util
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
DEFAULT_ARCHS = "80,90,100,120"
BINDINGS = "bindings_operators.h"  # written into the build folder by csrc/bindings.py
# One nvcc or cc1plus process at its largest, measured generously.
BYTES_PER_JOB = 2 << 30


def say(text: str) -> None:
    print(f"ccdn: {text}", file=sys.stderr, flush=True)


def choice(name: str, *allowed: str) -> str:
    value = os.environ.get(name, allowed[0]).strip().lower()
    if value not in allowed:
        raise SystemExit(f"{name} is {value!r}; expected one of {', '.join(allowed)}")
    return value


def find_cxx() -> list[str] | None:
    """The C++ compiler as a command, or None. A CXX that does not exist is an error."""
    if os.environ.get("CXX"):
        command = shlex.split(os.environ["CXX"])
        if shutil.which(command[0]) is None:
            raise SystemExit(f"CXX is {os.environ['CXX']!r}, which is not an executable")
        return command
    for name in ("c++", "g++", "clang++"):
        if path := shutil.which(name):
            return [path]
    return None


class Cuda(NamedTuple):
    nvcc: str
    library_dirs: list[str]
    archs: list[str]

    @property
    def gencode(self) -> list[str]:
        flags = [f"-gencode=arch=compute_{a},code=sm_{a}" for a in self.archs]
        # PTX of the last one, so that later devices work too.
        return [*flags, f"-gencode=arch=compute_{self.archs[-1]},code=compute_{self.archs[-1]}"]

    @property
    def label(self) -> str:
        return ", ".join(f"sm_{a}" for a in self.archs) + " and PTX"


def find_nvcc() -> str | None:
    if os.environ.get("NVCC"):
        path = shutil.which(os.environ["NVCC"])
        if path is None:
            raise SystemExit(f"NVCC is {os.environ['NVCC']!r}, which is not an executable")
        return path
    for root in ("CUDA_HOME", "CUDA_PATH"):
        if os.environ.get(root):
            path = shutil.which(str(Path(os.environ[root]) / "bin" / "nvcc"))
            if path:
                return path
    return shutil.which("nvcc") or shutil.which("/usr/local/cuda/bin/nvcc")


def find_cuda(sources: list[str]) -> Cuda | None:
    """nvcc, the location of its static runtime, and the architectures that it can build."""
    wanted = choice("CCDN_CUDA", "auto", "on", "off")
    if wanted == "off":
        return None

    def without(reason: str) -> None:
        if wanted == "on":
            raise SystemExit(f"CCDN_CUDA=on, but {reason}")
        say(f"building without CUDA kernels: {reason}")

    if not sources:
        return without("there are no csrc/cuda/*.cu")
    nvcc = find_nvcc()
    if nvcc is None:
        return without("nvcc was not found (NVCC, CUDA_HOME, PATH, /usr/local/cuda)")

    # nvcc on PATH may be a wrapper script anywhere: only nvcc itself knows its toolkit.
    dryrun = subprocess.run(
        [nvcc, "--dryrun", "-x", "cu", os.devnull], capture_output=True, text=True, check=False
    )
    text = dryrun.stderr + dryrun.stdout
    top = re.search(r"^#\$ TOP=(.*)$", text, re.MULTILINE)
    if top is None:
        return without(f"`{nvcc} --dryrun` named no toolkit:\n{text}")
    libraries = re.search(r"^#\$ LIBRARIES=(.*)$", text, re.MULTILINE)
    found = re.findall(r'-L"?([^"\s]+)"?', libraries.group(1)) if libraries else []
    folders = [*found, f"{top.group(1).strip()}/lib64", f"{top.group(1).strip()}/lib"]
    folders = [os.path.normpath(f) for f in folders if Path(f, "libcudart_static.a").exists()]
    if not folders:
        return without(f"libcudart_static.a was not found in the toolkit of {nvcc}")

    listed = subprocess.run([nvcc, "--list-gpu-arch"], capture_output=True, text=True, check=False)
    supported = re.findall(r"compute_(\d+)", listed.stdout)
    asked = os.environ.get("CCDN_CUDA_ARCHS") or DEFAULT_ARCHS
    requested = [a.strip().replace(".", "").replace("sm_", "") for a in asked.split(",") if a]
    wrong = [a for a in requested if not re.fullmatch(r"\d+[af]?", a)]
    if wrong or not requested:
        raise SystemExit(f"CCDN_CUDA_ARCHS is {asked!r}; expected something like {DEFAULT_ARCHS}")
    archs = [a for a in requested if a.rstrip("af") in supported]
    missing = [a for a in requested if a not in archs]
    if missing:
        say(f"{nvcc} cannot build for {', '.join(missing)}; it knows {', '.join(supported)}")
    if not archs:
        return without(f"{nvcc} can build for none of {asked}")
    return Cuda(nvcc, folders[:1], archs)


def find_ninja() -> str:
    try:
        import ninja

        bundled = Path(ninja.BIN_DIR) / "ninja"
        if bundled.exists():
            return str(bundled)
    except ImportError:
        pass
    path = shutil.which("ninja")
    if path is None:
        raise SystemExit("ninja was not found; `pip install ninja`, or build with isolation")
    return path


def find_pybind11() -> str:
    try:
        import pybind11
    except ImportError:
        raise SystemExit(
            "pybind11 was not found; `pip install pybind11`, or build with isolation"
        ) from None
    return pybind11.get_include()


def jobs() -> int:
    if asked := os.environ.get("MAX_JOBS"):
        if not asked.isdigit() or int(asked) < 1:
            raise SystemExit(f"MAX_JOBS is {asked!r}; expected a number from 1 on")
        return int(asked)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    try:
        meminfo = Path("/proc/meminfo").read_text(encoding="ascii")
        free = int(re.search(r"MemAvailable:\s+(\d+) kB", meminfo).group(1)) << 10
    except (OSError, AttributeError):
        return max(1, cores or 1)
    return max(1, min(cores or 1, free // BYTES_PER_JOB))


def loaded(path: str) -> ModuleType:
    """A file of the tree as a module by itself."""
    spec = importlib.util.spec_from_file_location(Path(path).stem, ROOT / path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # which dataclasses look for
    spec.loader.exec_module(module)
    return module


def quoted(arguments: list[str]) -> str:
    return shlex.join(arguments).replace("$", "$$")


def escaped(path: str | Path) -> str:
    return re.sub(r"([$ :])", r"$\1", str(path))


def rules(cxx: list[str], flags: list[str], link: list[str]) -> list[str]:
    """The rules of a build as ninja text: compile a source, link the objects."""
    return [
        "ninja_required_version = 1.5",
        "rule cxx",
        f"  command = {quoted(cxx)} -MMD -MF $out.d {quoted(flags)} $extra -c $in -o $out",
        "  depfile = $out.d",
        "  deps = gcc",
        "  description = c++ $in",
        # Under another name first, so that a killed build leaves no partial module.
        "rule link",
        f"  command = {quoted(cxx)} $in -o $out.partial {quoted(link)} && mv -f $out.partial $out",
        "  description = link $out",
    ]


def targets_x86_64(cxx: list[str]) -> bool:
    """Whether the compiler targets x86-64; it may be a cross compiler."""
    command = [*cxx, *shlex.split(os.environ.get("CXXFLAGS", "")), "-dM", "-E", "-x", "c++"]
    result = subprocess.run([*command, os.devnull], capture_output=True, text=True, check=False)
    return "#define __x86_64__ 1" in result.stdout


def ninja_file(cxx: list[str], cuda: Cuda | None, sources: list[str], output: Path) -> str:
    """The whole build as ninja text: compile each source, link one shared object."""
    includes = [f"-I{ROOT / 'csrc'}"]
    python = [find_pybind11(), sysconfig.get_path("include")]
    extra = {n: shlex.split(os.environ.get(n, "")) for n in ("CXXFLAGS", "NVCCFLAGS", "LDFLAGS")}
    defines = ["-DNDEBUG"]
    # -fno-math-errno only frees sqrt of its errno branch; results are the same.
    common = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-fno-math-errno"]
    # A loop's speed should not depend on what was linked before it, which changed it by up to 10 %.
    common.append("-falign-functions=64")
    warnings = ["-Wall", "-Wextra"]
    # csrc/cpu/engine/isa.h: *_kernels.cpp are compiled once for each instruction set.
    isa_levels = [0]
    if targets_x86_64(cxx):
        isa_levels = [4, 3, 0]  # the largest first
        defines.append("-DCCDN_X86_CLONES")
    if cuda:
        defines.append(f'-DCCDN_CUDA_ARCHS="{" ".join(cuda.archs)}"')
        defines.append(f'-DCCDN_CUDA_PTX="{cuda.archs[-1]}"')
    cflags = [*common, *warnings, *defines, *includes, *extra["CXXFLAGS"]]
    # Its work is done in Python: -O1 halves its time. -I. is for what csrc/bindings.py writes.
    binding_flags = ["-O1", "-I."]
    binding_flags += [flag for path in python for flag in ("-isystem", path)]
    if sys.platform == "darwin":
        link = ["-bundle", "-undefined", "dynamic_lookup"]
    else:
        link = ["-shared", "-Wl,--exclude-libs,ALL", "-Wl,--gc-sections"]
    if cuda:
        link += [f"-L{d}" for d in cuda.library_dirs]
        link += ["-lcudart_static", "-ldl", "-lrt", "-lpthread"]

    lines = [
        *rules(cxx, cflags, [*link, *extra["LDFLAGS"]]),
        "rule bindings",
        f"  command = {quoted([sys.executable])} $in --operators $out",
        "  description = write $out",
    ]
    if cuda:
        nvcc_flags = ["-std=c++17", "-O3", "-lineinfo", "-Xcompiler", "-fPIC,-fvisibility=hidden"]
        nvcc_flags += [*defines, *cuda.gencode, *includes, *extra["NVCCFLAGS"]]
        lines += [
            "rule nvcc",
            f"  command = {quoted([cuda.nvcc])} -MD -MF $out.d {quoted(nvcc_flags)} -c $in -o $out",
            "  depfile = $out.d",
            "  deps = gcc",
            "  description = nvcc $in",
        ]
    objects = []
    if "csrc/bindings.cpp" in sources:
        bindings = loaded("csrc/bindings.py")
        read = [*bindings.sources(), *bindings.headers()]
        script = escaped(ROOT / "csrc" / "bindings.py")
        lines.append(f"build {BINDINGS}: bindings {script} | {' '.join(map(escaped, read))}")
    for source in sources:
        rule = "nvcc" if source.endswith(".cu") else "cxx"
        per_isa = source.endswith("_kernels.cpp")
        for level in isa_levels if per_isa else [None]:
            suffix = f".{level}.o" if per_isa else ".o"
            target = escaped(source.replace("/", "_") + suffix)
            after = f" || {BINDINGS}" if source == "csrc/bindings.cpp" else ""
            lines.append(f"build {target}: {rule} {escaped(ROOT / source)}{after}")
            if per_isa:
                lines.append(f"  extra = -DCCDN_ISA_LEVEL={level}")
            elif after:
                lines.append(f"  extra = {quoted(binding_flags)}")
            objects.append(target)
    lines.append(f"build {escaped(output)}: link {' '.join(objects)}")
    lines.append(f"default {escaped(output)}")
    return "\n".join(lines) + "\n"


def torch_ninja_file(cxx: list[str], source: str, output: Path) -> str:
    """The build of csrc/torch/direct.cpp as ninja text; torch has brought its own pybind11."""
    from torch.utils.cpp_extension import include_paths, library_paths

    name = output.name.partition(".")[0]
    includes = [*include_paths(), sysconfig.get_path("include")]
    # A process that imports the module has loaded these libraries.
    libraries = [f"-L{folder}" for folder in library_paths()]
    libraries += ["-lc10", "-ltorch", "-ltorch_cpu", "-ltorch_python"]
    flags = ["-std=c++20", "-O2", "-fPIC", "-fvisibility=hidden", "-DNDEBUG", "-Wall"]
    flags += [f"-DCCDN_MODULE={name}", f'-DCCDN_INTERFACE="{loaded("csrc/bindings.py").digest()}"']
    flags += [flag for path in includes for flag in ("-isystem", path)]
    flags += shlex.split(os.environ.get("CXXFLAGS", ""))
    link = ["-bundle", "-undefined", "dynamic_lookup"] if sys.platform == "darwin" else ["-shared"]
    link += [*libraries, *shlex.split(os.environ.get("LDFLAGS", ""))]
    return "\n".join(
        [
            *rules(cxx, flags, link),
            f"build direct.o: cxx {escaped(ROOT / source)}",
            f"build {escaped(output)}: link direct.o",
            f"default {escaped(output)}",
            "",
        ]
    )


class FreshPackages(build_py):
    """Without the modules that an earlier build has left in the build folder and that the tree no
    longer has: setuptools would install them too, and ccdn_ops.ops imports whatever folder it has.
    """

    def run(self) -> None:
        folder = Path(self.build_lib).resolve()
        if folder != ROOT:
            for package in {name.partition(".")[0] for name in self.packages or ()}:
                shutil.rmtree(folder / package, ignore_errors=True)
        super().run()


class NinjaBuild(build_ext):
    """Writes build.ninja into the build folder and runs it; if ninja fails, so does the build."""

    def folder(self) -> Path:
        """Where the objects lie. An editable installation takes those of `build_ext --inplace`:
        setuptools would give it an empty folder each time, and every file would be compiled anew.
        """
        if self.editable_mode:
            return ROOT / "build" / f"temp.{self.plat_name}-{sys.implementation.cache_tag}"
        return Path(self.build_temp).resolve()

    def build_extension(self, ext: Extension) -> None:
        cxx = find_cxx()
        assert cxx is not None, "native_modules() asked for no extension without a compiler"
        output = Path(self.get_ext_fullpath(ext.name)).resolve()
        if ext.name.startswith("ccdn_ops._direct_"):
            say(f"building {ext.name} with {shlex.join(cxx)}")
            text = torch_ninja_file(cxx, *ext.sources, output)
            self.run_ninja(ext.name, self.folder() / "torch", text, output)
            return
        cuda = find_cuda([s for s in ext.sources if s.endswith(".cu")])
        # The CUDA files take longest, so they start first.
        sources = [s for s in ext.sources if cuda and s.endswith(".cu")]
        sources += [s for s in ext.sources if not s.endswith(".cu")]
        kernels = f"CUDA for {cuda.label}" if cuda else "no CUDA"
        say(f"building {ext.name} with {shlex.join(cxx)}, {kernels}, {jobs()} jobs")
        self.run_ninja(ext.name, self.folder(), ninja_file(cxx, cuda, sources, output), output)

    def run_ninja(self, name: str, folder: Path, text: str, output: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        output.parent.mkdir(parents=True, exist_ok=True)
        (folder / "build.ninja").write_bytes(os.fsencode(text))
        command = [find_ninja(), "-C", str(folder), f"-j{jobs()}"]
        if self.verbose:
            command.append("-v")
        if subprocess.run(command, check=False).returncode:
            raise SystemExit(
                f"ccdn: building {name} failed; the compiler's message is above. "
                "CCDN_CUDA=off leaves out the CUDA kernels, CCDN_NATIVE=off all native code."
            )


def native_modules() -> list[Extension]:
    if choice("CCDN_NATIVE", "auto", "off") == "off":
        say("CCDN_NATIVE=off: pure Python, without native kernels")
        return []
    if sys.platform == "win32":
        say("pure Python: the native kernels are built on Linux and macOS only")
        return []
    if find_cxx() is None:
        say("pure Python: no C++ compiler was found (CXX, c++, g++, clang++)")
        return []
    wanted = choice("CCDN_TORCH", "off", "on", "only")
    found = []
    if wanted != "only":
        patterns = ("csrc/*.cpp", "csrc/cpu/*/*.cpp", "csrc/cuda/*.cu")
        files = [p.relative_to(ROOT) for pattern in patterns for p in sorted(ROOT.glob(pattern))]
        found.append(Extension("ccdn_ops._C", sources=[f.as_posix() for f in files]))
    if wanted != "off":
        found.append(torch_module())
    return found


def torch_module() -> Extension:
    try:
        import torch
    except ImportError:
        raise SystemExit(
            "CCDN_TORCH asks for the module of direct calls, but this Python has no torch, as in "
            "every isolated build: `pip install torch pybind11 ninja setuptools`, then "
            "`CCDN_TORCH=on pip install --no-build-isolation .`"
        ) from None
    name = loaded("ccdn_ops/names.py").direct_module(torch.__version__)
    return Extension(f"ccdn_ops.{name}", sources=["csrc/torch/direct.cpp"])


if __name__ == "__main__":
    setup(
        ext_modules=native_modules(), cmdclass={"build_ext": NinjaBuild, "build_py": FreshPackages}
    )
