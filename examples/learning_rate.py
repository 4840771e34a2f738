# %% [markdown]
# # Search the learning rate
#
# The paper tries learning rates from large to small and stops once the final validation loss
# increases. `tuning` does this on keras-tuner: an oracle that proposes rates, and a tuner whose
# trials are runs that can be resumed. About two minutes on two CPU cores; needs the extra `tune`.

# %%
import math

from igpt_keras.runs.pretrain import Settings
from tuning import LearningRateSearch, PretrainExperiment, Rates

settings = Settings(
    image_size=8,
    num_colors=16,
    num_layers=2,
    hidden_dim=32,
    num_heads=2,
    epochs=4,
    batch_size=32,
    snapshots=1,
)
experiment = PretrainExperiment("digits", settings)

# %% [markdown]
# Too high a rate diverges, which counts as an infinite loss. Called again, the search resumes.

# %%
tuner = LearningRateSearch(
    experiment, Rates(start=3.0, floor=0.001), directory="searches", project_name="digits"
)
tuner.search(verbose=0)

# %%
(search,) = tuner.oracle.searches()
for trial in search.trials:
    rate = trial.hyperparameters.get("learning_rate")
    print(f"{rate:<6g}", f"{trial.score:.4f}" if math.isfinite(trial.score) else "diverged")
print("ended because", search.ending)

# %% [markdown]
# The best trial is a run folder like any other, and its model is at hand.

# %%
model = tuner.get_best_models()[0]
print(tuner.get_best_hyperparameters()[0].values)
print(model.sample(2).images.shape)
