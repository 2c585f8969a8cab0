"""The data sets and recipes of ``training.py``."""

from pathlib import Path

import training_frames

EXAMPLES = Path(__file__).parent.parent / "examples"
# Native's recipe for small data sets, in both sets.
NATIVE = ["--error_table", "PerAtomRMSE", "--default_dtype", "float64", "--device", "cpu", "--plot", "False"]
NATIVE += ["--model", "MACE", "--num_interactions", "2", "--max_ell", "2", "--correlation", "3"]
NATIVE += ["--ema", "--ema_decay", "0.99", "--amsgrad", "--lr", "0.01", "--eval_interval", "2"]
NATIVE += ["--name", "native", "--train_file", "train.xyz", "--work_dir", "."]


class Acac:
    """Acetylacetone: 450 training frames, batches of 5, 2160 steps; native with its stage two.

    Parameters
    ----------
    path : pathlib.Path, optional
        Our input; default is the example's.
    """

    steps = 2160
    native_model = "native_stagetwo.model"
    isolated = {"H": -13.568422178253735, "C": -1026.8538996116154, "O": -2037.796869412825}  # noqa: RUF012

    def __init__(self, path=None):
        self.data = EXAMPLES / "acac" / "data"
        self.path = path or EXAMPLES / "acac" / "input.json"

    def tests(self):
        """Frames by name."""
        parts = ("valid_300K", "test_300K", "test_600K")
        return {part.replace("_", " "): training_frames.read_set(self.data / part) for part in parts}

    def native(self, folder, seed):
        """Write the data; returns the arguments of ``mace_run_train``."""
        train = training_frames.read_set(self.data / "train_300K")
        training_frames.write_xyz(folder / "train.xyz", train, self.isolated)
        training_frames.write_xyz(folder / "valid.xyz", training_frames.read_set(self.data / "valid_300K"))
        arguments = ["--hidden_irreps", "16x0e + 16x1o", "--r_max", "4.0", "--valid_file", "valid.xyz"]
        arguments += ["--batch_size", "5", "--valid_batch_size", "50", "--scheduler_patience", "5"]
        arguments += ["--energy_weight", "1", "--forces_weight", "100", "--max_num_epochs", "24"]
        return [*NATIVE, *arguments, "--swa", "--start_swa", "18", "--seed", str(seed)]

    def ours(self, seed):
        """Our input for a seed."""
        config = training_frames.read_input(self.path, model={"seed": seed})
        training = config["training"]
        training.update(numb_steps=self.steps, seed=seed)
        training["training_data"]["systems"] = [str(self.data / "train_300K")]
        training["validation_data"]["systems"] = [str(self.data / "valid_300K")]
        return config


class Molybdenum:
    """Molybdenum crystals with strain, vacancies and surfaces, with virials: 175 frames, batches of 4, 616 steps.

    Parameters
    ----------
    path : pathlib.Path, optional
        Our input; default is the example's.
    """

    steps = 616
    native_model = "native.model"

    def __init__(self, path=None):
        self.data = EXAMPLES / "molybdenum" / "data"
        self.path = path or EXAMPLES / "molybdenum" / "input.json"

    def tests(self):
        """Frames by name."""
        return {part: training_frames.read_set(self.data / part) for part in ("valid", "test")}

    def native(self, folder, seed):
        """Write the data; returns the arguments of ``mace_run_train``."""
        for part in ("train", "valid"):
            training_frames.write_xyz(folder / f"{part}.xyz", training_frames.read_set(self.data / part))
        arguments = ["--hidden_irreps", "8x0e + 8x1o", "--r_max", "4.6", "--valid_file", "valid.xyz"]
        arguments += ["--interaction_first", "RealAgnosticDensityInteractionBlock", "--pair_repulsion"]
        arguments += ["--interaction", "RealAgnosticDensityResidualInteractionBlock"]
        arguments += ["--distance_transform", "Agnesi", "--E0s", "average", "--max_num_epochs", "14"]
        arguments += ["--batch_size", "4", "--valid_batch_size", "10", "--loss", "universal"]
        arguments += ["--energy_weight", "1", "--forces_weight", "10", "--stress_weight", "10"]
        return [*NATIVE, *arguments, "--compute_stress", "True", "--seed", str(seed)]

    def ours(self, seed):
        """Our input for a seed."""
        config = training_frames.read_input(self.path, model={"seed": seed})
        training = config["training"]
        training.update(numb_steps=self.steps, seed=seed)
        training["training_data"]["systems"] = [str(self.data / "train")]
        training["validation_data"]["systems"] = [str(self.data / "valid")]
        return config


SETS = {"acac": Acac, "molybdenum": Molybdenum}
