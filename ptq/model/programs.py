"""Load a torch.export program, after making sure that loading it runs nothing that the file brings.

`torch.export.load` unpickles whatever the archive marks as pickled, evaluates its symbolic expressions as Python
and calls what its nodes name, so a program can be a bomb as well as a pickled module can.
"""

from __future__ import annotations

import ast
import io
import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ptq.errors import ModelFileError, UntrustedPickleError, first_line
from ptq.model.checkpoints import check_held
from ptq.model.quiet import quiet

if TYPE_CHECKING:
    from torch.export import ExportedProgram

_DAMAGE = (zipfile.BadZipFile, zlib.error, LookupError, TypeError, AttributeError, ValueError, EOFError, RuntimeError)
_PICKLED = re.compile(
    r"serialized_(state_dict|constants|example_inputs)\.\w+|[^/]+/data/(sample_inputs|weights|constants)/[\w-]+\.pt"
)
_CONFIG = re.compile(r"[^/]+/data/(weights|constants)/[\w-]+_config\.json")
_GRAPH = re.compile(r"[^/]+/models/[\w-]+\.json|serialized_exported_program\.json")
_PLAIN = re.compile(
    r"[^/]+/(archive_format|archive_version|byteorder|version|\.data/\w+|\.\w+|extra/.*|data/\w+/(weight|tensor)_\d+)"
    r"|version|extra_files/.*|.*/"
)
_PAYLOAD = re.compile(r"(weight|tensor)_\d+")  # others are objects of any class
_ARITHMETIC = (
    *(
        ast.Expression,
        ast.BinOp,
        ast.UnaryOp,
        ast.BoolOp,
        ast.Compare,
        ast.operator,
        ast.unaryop,
        ast.boolop,
        ast.cmpop,
    ),
    *(ast.Call, ast.keyword, ast.Attribute, ast.Subscript, ast.Name, ast.Constant, ast.expr_context),
)
_FUNCTION = re.compile(
    r"[A-Z]\w*|floor|ceiling|max|min|abs|math\.\w+|torch\._?sym_\w+|.*\.(size|stride|storage_offset)"
)
_ATTRIBUTE = re.compile(r"(math|torch)\.[a-z_]\w*|.*\.(size|stride|storage_offset)")
_WORD = re.compile(r"(?!.*__)[\w.+-]*")
_OPERATOR = re.compile(
    r"torch\.ops\.(?!load_library)\w+\.(?!(?:from_file|save|load_tensor)\b)\w+(\.\w+)?|torch\.(sym_|_sym_|_check)\w*|(?!torch\b).*"
)


def load_program(path: Path, *, trusted: bool) -> ExportedProgram:
    """The program in a file that `detect` calls one.

    Raises:
        UntrustedPickleError: loading would run code from the file, and it is not trusted.
        ModelFileError: torch cannot read it.

    """
    import torch

    if not trusted:
        try:
            reason = next(_code(path), None)
        except _DAMAGE as error:
            raise ModelFileError(
                f"{path} holds a damaged torch.export program ({first_line(error)}); save it again"
            ) from error
        if reason is not None:
            raise UntrustedPickleError(
                f"{path} is a torch.export program that would run code when loaded ({reason}); "
                f"give --trust-pickle if you made the file"
            )
    try:
        with quiet(), path.open("rb") as stream:
            program = torch.export.load(stream)
    except Exception as error:  # any, by what is damaged
        raise ModelFileError(
            f"{path} holds a torch.export program that torch {torch.__version__} cannot read ({first_line(error)}); "
            f"save it again with this version of torch"
        ) from error
    check_held({**program.state_dict, **program.constants}, path)
    return program


def _code(path: Path) -> Iterator[str]:
    """What loading the program would run, one phrase each."""
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            if _PICKLED.fullmatch(name):
                if not _only_tensors(archive, name):
                    yield f"{name} holds more than tensors"
            elif _CONFIG.fullmatch(name):
                yield from _objects(archive, name)
            elif _GRAPH.fullmatch(name):
                yield from _unsafe_strings(json.loads(archive.read(name)))
            elif not _PLAIN.fullmatch(name):
                yield f"{name} is no part of a plain program"


def _objects(archive: zipfile.ZipFile, config: str) -> Iterator[str]:
    """The entries of a list of weights or constants that are more than tensors."""
    for entry in json.loads(archive.read(config))["config"].values():
        member = f"{config.rpartition('/')[0]}/{entry['path_name']}"
        if not _PAYLOAD.fullmatch(entry["path_name"]) or (entry["use_pickle"] and not _only_tensors(archive, member)):
            yield f"{member} holds more than tensors"


def _only_tensors(archive: zipfile.ZipFile, member: str) -> bool:
    """Whether torch's own restricted unpickler accepts a member."""
    import pickle

    import torch

    data = archive.read(member)
    if not data:
        return True
    try:
        with quiet():
            torch.load(io.BytesIO(data), weights_only=True, map_location="cpu")
    except (pickle.UnpicklingError, RuntimeError, ValueError, EOFError, LookupError, TypeError, AttributeError):
        return False
    return True


def _is_formula(text: str) -> bool:
    """Whether Python text only computes with numbers, sizes and the functions of sympy."""
    try:
        nodes = list(ast.walk(ast.parse(text.strip(), mode="eval")))
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return False
    for node in nodes:
        if isinstance(node, ast.Call):
            plain: object = _FUNCTION.fullmatch(ast.unparse(node.func))
        elif isinstance(node, ast.Attribute):
            plain = _ATTRIBUTE.fullmatch(ast.unparse(node))
        elif isinstance(node, (ast.Name, ast.Constant)):
            plain = _WORD.fullmatch(str(node.id if isinstance(node, ast.Name) else node.value))
        else:
            plain = isinstance(node, _ARITHMETIC)
        if not plain:
            return False
    return True


def _unsafe_strings(content: Any) -> Iterator[str]:
    """The strings of a serialized graph that torch would evaluate or call and that are no formula or operator."""
    stack: list[Any] = [content]
    while stack:
        item = stack.pop()
        if isinstance(item, list):
            stack.extend(item)
        elif isinstance(item, dict):
            stack.extend(item.values())
            formulas = [item.get("expr_str"), *(item.get("guards_code") or ())]
            for formula in formulas:
                if isinstance(formula, str) and not _is_formula(formula):
                    yield f"the formula {formula[:60]!r}"
            target = item.get("target")
            if isinstance(target, str) and not _OPERATOR.fullmatch(target):
                yield f"the operator {target[:60]!r}"
