"""Files by hand, in both layouts, and two that PyTorch 2.13 wrote."""

import base64
import pickle
import zipfile
import zlib

import jax.numpy as jnp
import numpy as np
import pytest

from simple_diffusion.weights import torch_file
from simple_diffusion.weights.torch_file import TorchFileError
from tests.weights import torch_saves
from tests.weights.torch_saves import call, mapping, name, push, storage, tensor

FLOATS = np.arange(12, dtype=np.float32)
TWELVE = storage("torch.FloatStorage", "0", 12)


@pytest.fixture(params=["zip", "stream"])
def write(request, tmp_path):
    """Writes a file in either layout, from a piece of a pickle and arrays by key."""

    def write(piece, arrays):
        path = tmp_path / "saved.pth"
        if request.param == "zip":
            storages = {key: v.tobytes() for key, v in arrays.items()}
            return torch_saves.write_zip(path, piece, storages)
        storages = {key: (v.size, v.tobytes()) for key, v in arrays.items()}
        return torch_saves.write_stream(path, piece, storages)

    return write


@pytest.mark.parametrize("dtype", torch_saves.STORAGES)
def test_every_type_comes_back(tmp_path, dtype):
    values = np.random.default_rng(0).normal(0, 9, (3, 5)).astype(jnp.dtype(dtype))
    found = torch_file.read(torch_saves.save(tmp_path / "saved.pth", {"x": values}))
    assert found["x"].dtype == jnp.dtype(dtype)
    np.testing.assert_array_equal(found["x"], values)


def test_offsets_and_strides_are_followed(write):
    path = write(
        mapping(
            {
                "whole": tensor(TWELVE, 0, (3, 4), (4, 1)),
                "turned": tensor(TWELVE, 0, (4, 3), (1, 4)),
                "part": tensor(TWELVE, 5, (2, 2), (4, 2)),
                "repeated": tensor(TWELVE, 7, (2, 3), (0, 1)),
                "scalar": tensor(TWELVE, 11, (), ()),
                "empty": tensor(TWELVE, 0, (0, 3), (3, 1)),
            }
        ),
        {"0": FLOATS},
    )
    found = torch_file.read(path)
    whole = FLOATS.reshape(3, 4)
    expected = {
        "whole": whole,
        "turned": whole.T,
        "part": [[5, 7], [9, 11]],
        "repeated": [[7, 8, 9]] * 2,
        "scalar": 11,
        "empty": np.zeros((0, 3)),
    }
    assert list(found) == list(expected)
    for key, value in expected.items():
        np.testing.assert_array_equal(found[key], value)
    assert np.shares_memory(found["whole"], found["part"])
    assert not found["whole"].flags.writeable


def test_containers_and_plain_values_stay_what_they_are(write):
    plain = {"epoch": 3, "rate": 1e-4, "words": ["a", None, True], "pair": (1, "b")}
    pieces = {"state_dict": mapping({"x": tensor(TWELVE, 0, (12,), (1,))})}
    path = write(
        mapping({k: push(v) for k, v in plain.items()} | pieces), {"0": FLOATS}
    )
    found = torch_file.read(path)
    np.testing.assert_array_equal(found.pop("state_dict")["x"], FLOATS)
    assert found == plain and type(found) is dict


# What torch.save of PyTorch 2.13 makes of
#   x = torch.arange(12.).reshape(3, 4)
#   OrderedDict(plain=x, turned=x.t(), columns=x[1:, ::2],
#               small=torch.arange(6).to(torch.bfloat16).reshape(2, 3).t(),
#               flags=torch.tensor([True, False]),
#               young=torch.tensor([1, 65535], dtype=torch.uint16),
#               weight=torch.nn.Parameter(torch.tensor([.5])))
BY_PYTORCH = {
    "zip": """
        eNqdlk9s21Qcx18cx03dAutWRju6sW6wZbCldv6n0DY1ky8WojMainqJvMRNLBw7P+dlo0iT
        KqGGPxcEF25oZ64cuKGJG0ckjghN4sQJiRM7be89O4nttotUJz87id7n+/29934/Oztakkco
        nUZHDhEtofZay8BGtveJrSqLaPeY44BrNl3bNpvYcp2++KHXMj2zddtqYhHQDR0SmXqKiPVs
        w3KAa2LXa3ayjQG27L7Y8Mx7A8tuNbDp9F2vcT8nQjKTqc8QoE9GGm0TeB8RVds18Ef+jyKk
        6gkyRgKhniTXZm8AM9o8hvQdDWlJjR/CrMZriSGIX3VoEnMY5nV4qS6QwXjgOWYLXu4Qpw7f
        SXWEDmNfoSyvJYdwRktQiQWfPYvhnA6LLCky00HX6cOrcfj8HYJyGjeE1+iHISz58DKGCzq8
        zpag3zVsG1Z8NJiVwqYll8YTu8gmJsMloitgeMOfEBG8TJIiua36ulcwXNXhTaa7ZxvtPrwV
        1XVde6x5jWnm4DrR5DBkqCZ3CDe0xCG87eu9g+GmDreY3r47cNqQnbJVeRHWJobZYLvEuw7e
        75mtsbfEvPMgE28eQy7wzlPvgu9dDHIeWA5ZCRFKGMo6VNhmPTCtdgdD9YRkeoZndE1seiKs
        j7aEGRbgXWKYwPAeNSReG/S06RtuYajpsP0l+6J8Ae/rcHuQ3dFm0t9c5KXfOIRo7JzYGAuo
        Qhoju+d6XQM37pten5S+qhSO7Y9ph0x9f/73z89p2jRO9l1EG9Q3WOqGYVttp2s6WFWqp7Jm
        R6lAE9h6AP+QOSPuhQnMoRRJ4N4+Nl3a5qqSQLu2hbFtUo3Djb+X6Z4JL9RIIz64q6xJqjL6
        9WCLnGrkTeKAxCMSj0k8IYG2ETpD4jIJaZs6ffpwb1Oi/T/F6cLISVaV8ycsEfOu1WoHtUc1
        qv3T6pP1eULPT9HeHGnnVGX99Mu/m0DU9Zerv9anr3+avALXvKrwyOefPaMKwx//uk4wxE9R
        EEYKBVXhEJ0/2qL86n9Xvp/Oz7IKGJc82f+8SOnff2jfnZ7/kt84zL5vehap4M8M+txoWK3T
        9o8kFYtyVZIrxXxOyherUrlSluVCqSxXqoVcKZ8rkbNULNMsV55+8HWG5JFhWSY4tiJBnuHW
        F49kPnkOxrlw6y5EmOUkOnqbiOPhxluM4N/6+JFujyuE224uonCWR+F2jYPhLopu1sc8Gvdo
        nAr3R5R6PKHkOBWu7yi1khpTuTgVruko9d2EysepcCVHqT8mVCFOhSt4NnrbFdCk5uNYuKSW
        IpjOsOOLfUcThJvBuEvJW6EbbPT6kPOv/wv+lXD0bwgaBBn6z4uU4DNzbLw/9jn+Mv7G
    """,
    "stream": """
        eNqFk9tu00AQhteHpGDaEs6UYzmnHEKSNmnCqW4pvbE41AjJN8gyzhIbOXbGXhcVqVJuGgrP
        wEUveQwehVseAQmpzHpDoBBgk7Hi9eT//p0Z9+T3WvDtw8rX6Vcfn0yVevLDLwpeN4AUrQIh
        pBtHLHKjwF6jceJHIUiYYE3gk8BnLKA2DVu+E4K8ZWm4yda71E78NzQBZQPUopXDzcSLYgY5
        Q7YUvPNDBnlDtVSuEYVtGDPUNEWmi5iAugwpifY4btGYtpZ9l2lAZkyQhFY3cHykuSyKXa9k
        p8wPEs2O6YvUD1o2o2ESxfZaVQOlWLTGOBwznTYFVfxFWwkihz0VmxrkrEnMac5VmtVyuVav
        zM5XG5DPfLrdFK2NP2KwZ9UghmKofdhrqIbUB+2dxy3tYzBuwoSV5wdP45C2YNJDrqd6I3X3
        e0KvwPVUQ+nDAUPisgeF3iEGh004ktnGWqSdMIGj/xI8NhA8vopysiH3YYr/6MMJIXiSwSkT
        TosmdJwggDNCblCLpawYlfqwHGeHlOxTKzfn6zCNlDxSzokyoPx5tI3uLwjKRQaXTLicUV4G
        TjuBK7spURQMCcXdhGq9hueYQYKMhKucIG/CNUPahOtC/QaDkgk3M/X1KMV5Kf+n+bMaVH7i
        S4MB0J6FfDhbQyfV385awcLCLDpR0cncwEmNO6kLJ/OD86Q4wZW6Bg0GTRNuZe1/Tf22x+D2
        X6x1ndjpUEZjDe780dABvtxowF3ES4i/x/FIXuAXXeAXGSyZcH8ru1l+Cw9MWOGvzXP+qo4o
        qjSql/IoqjKqEuqogcvRkkzEkkie/Fi9BaLrek/f1qXhHllQh5k7O+Pk14X5hOj4xehhbGN8
        wviMQRYJKWBMY5QXvwPXNi+8
    """,
}


@pytest.mark.parametrize("layout", BY_PYTORCH)
def test_files_of_pytorch_itself_are_read(tmp_path, layout):
    path = tmp_path / "saved.pth"
    path.write_bytes(zlib.decompress(base64.b64decode(BY_PYTORCH[layout])))
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    expected = {
        "plain": x,
        "turned": x.T,
        "columns": np.array([[4, 6], [8, 10]], np.float32),
        "small": np.arange(6).reshape(2, 3).T.astype(jnp.bfloat16),
        "flags": np.array([True, False]),
        "young": np.array([1, 65535], np.uint16),
        "weight": np.array([0.5], np.float32),
    }
    found = torch_file.read(path)
    assert list(found) == list(expected)
    for key, value in expected.items():
        assert found[key].dtype == value.dtype
        np.testing.assert_array_equal(found[key], value)


def test_parameters_of_old_versions_are_read(tmp_path):
    # Up to PyTorch 0.3, whose files are still published: a parameter is made empty and
    # gets (data, gradient, hooks, requires gradient, volatile); its storage is a part,
    # from the second element on, of one of twelve.
    part = push("storage") + name("torch.FloatStorage") + push("0") + push("cpu")
    part = b"(" + part + push(12) + push(("1", 2, 8)) + b"tQ"
    layout = push(1) + push((2, 3)) + push((3, 1))
    data = call("torch._utils._rebuild_tensor", part, layout)
    state = b"(" + data + push(None) + call("collections.OrderedDict")
    state += push(True) + push(False) + b"t"
    parameter = name("torch.nn.parameter.Parameter") + push(()) + b"\x81" + state + b"b"
    path = tmp_path / "saved.pth"
    piece = mapping({"layer.weight": parameter})
    torch_saves.write_stream(path, piece, {"0": (12, FLOATS.tobytes())})
    expected = FLOATS[3:9].reshape(2, 3)
    np.testing.assert_array_equal(torch_file.read(path)["layer.weight"], expected)


@pytest.mark.parametrize("function", ["os.system", "posix.system", "builtins.eval"])
def test_a_pickle_that_would_run_something_is_refused_by_name(
    write, tmp_path, function
):
    trap = tmp_path / "trap"
    touch = {"builtins.eval": f"__import__('pathlib').Path({str(trap)!r}).touch()"}.get(
        function, f"touch {trap}"
    )
    piece = call(function, push(touch))
    # It would work: this is what a plain unpickler does.
    pickle.loads(torch_saves.program(piece))
    assert trap.exists()
    trap.unlink()
    with pytest.raises(TorchFileError, match=f"saved.pth holds {function}; only"):
        torch_file.read(write(mapping({"x": piece}), {}))
    assert not trap.exists()


def test_names_that_reach_through_a_known_one_are_refused(write):
    # Protocol 4 looks up dotted names: OrderedDict.__init__.__globals__ and the like.
    piece = push("collections") + push("OrderedDict.fromkeys") + b"\x93"
    with pytest.raises(TorchFileError, match="holds collections.OrderedDict.fromkeys"):
        torch_file.read(write(piece, {}))


@pytest.mark.parametrize(
    "offset, size, stride",
    [(0, (13,), (1,)), (1, (3, 4), (4, 1)), (0, (2,), (-1,)), (-1, (2,), (1,))],
)
def test_a_tensor_never_reaches_beyond_its_storage(write, offset, size, stride):
    path = write(tensor(TWELVE, offset, size, stride), {"0": FLOATS})
    with pytest.raises(TorchFileError, match="saved.pth is damaged"):
        torch_file.read(path)


def test_a_storage_of_another_length_than_told_is_damage(tmp_path):
    piece, path = tensor(TWELVE, 0, (3,), (1,)), tmp_path / "saved.pth"
    torch_saves.write_zip(path, piece, {"0": FLOATS[:11].tobytes()})
    with pytest.raises(TorchFileError, match="storage 0 has 44 bytes, not 12"):
        torch_file.read(path)
    torch_saves.write_stream(path, piece, {"0": (12, FLOATS[:11].tobytes())})
    with pytest.raises(TorchFileError, match="storage 0 ends early"):
        torch_file.read(path)
    far = tensor(storage("torch.FloatStorage", "0", 10**12), 0, (3,), (1,))
    torch_saves.write_stream(path, far, {"0": (12, FLOATS.tobytes())})
    with pytest.raises(TorchFileError, match="storage 0 is larger than the file"):
        torch_file.read(path)


def test_bytes_in_place_of_a_storage_that_is_not_there_are_damage(write):
    with pytest.raises(TorchFileError, match="saved.pth is damaged: "):
        torch_file.read(write(tensor(TWELVE, 0, (12,), (1,)), {"1": FLOATS}))
    with pytest.raises(TorchFileError, match="saved.pth is damaged: "):
        torch_file.read(write(tensor(TWELVE, 0, (12,), (1,)), {}))


@pytest.mark.parametrize("layout", ["zip", "stream"])
def test_a_file_cut_short_is_damage(tmp_path, layout):
    path = tmp_path / "saved.pth"
    path.write_bytes(zlib.decompress(base64.b64decode(BY_PYTORCH[layout]))[:-5])
    with pytest.raises(TorchFileError, match="saved.pth is damaged"):
        torch_file.read(path)


def test_a_byte_flipped_in_a_zip_file_is_damage(tmp_path):
    path = torch_saves.save(tmp_path / "saved.pth", {"x": FLOATS})
    whole = bytearray(path.read_bytes())
    whole[whole.index(FLOATS[3:6].tobytes())] ^= 1
    path.write_bytes(whole)
    with pytest.raises(TorchFileError, match="Bad CRC"):
        torch_file.read(path)


@pytest.mark.parametrize("version, dtype", [("v2", b""), ("v3", name("torch.uint32"))])
def test_a_negated_view_is_refused_and_not_read_with_the_wrong_sign(
    write, version, dtype
):
    layout = push(0) + push((12,)) + push((1,)) + push(False) + push({}) + dtype
    function = f"torch._utils._rebuild_tensor_{version}"
    piece = call(function, TWELVE, layout, push({"neg": True}))
    with pytest.raises(TorchFileError, match="lazy tensor"):
        torch_file.read(write(piece, {"0": FLOATS}))


def test_another_order_of_bytes_is_refused(tmp_path):
    path, piece = tmp_path / "saved.pth", tensor(TWELVE, 0, (12,), (1,))
    torch_saves.write_zip(path, piece, {"0": FLOATS.tobytes()}, order=b"big")
    with pytest.raises(TorchFileError, match="big-endian"):
        torch_file.read(path)
    torch_saves.write_stream(path, piece, {"0": (12, FLOATS.tobytes())}, little=False)
    with pytest.raises(TorchFileError, match="big-endian"):
        torch_file.read(path)


def test_files_of_other_kinds_are_none_of_pytorch(tmp_path):
    path = tmp_path / "saved.pth"
    for content in (
        b"",
        b"<html>not found</html>",
        pickle.dumps({"x": 1}),
        b"\x93NUMPY",
    ):
        path.write_bytes(content)
        with pytest.raises(
            TorchFileError, match=r"saved.pth is not a file of torch.save"
        ):
            torch_file.read(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("x.npy", b"")
    with pytest.raises(TorchFileError, match="zip archive, but not one of torch.save"):
        torch_file.read(path)
    with pytest.raises(FileNotFoundError, match="missing.pth"):
        torch_file.read(tmp_path / "missing.pth")
