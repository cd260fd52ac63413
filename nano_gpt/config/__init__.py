"""What a run is: settings, presets and how they are merged. Imports no torch."""

from nano_gpt.config.data import DataConfig
from nano_gpt.config.evaluation import EvaluationConfig
from nano_gpt.config.inference import SamplingConfig
from nano_gpt.config.loading import build, resolve, to_yaml
from nano_gpt.config.model import GPTConfig
from nano_gpt.config.run import RunConfig
from nano_gpt.config.training import TrainingConfig

__all__ = [
    "DataConfig",
    "EvaluationConfig",
    "GPTConfig",
    "RunConfig",
    "SamplingConfig",
    "TrainingConfig",
    "build",
    "resolve",
    "to_yaml",
]
