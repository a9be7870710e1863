"""Submit the job from the hub: `submit.py ADMIN-KIT`; prints what became of it."""

import sys
from pathlib import Path

from nvflare.app_common.np.recipes.fedavg import NumpyFedAvgRecipe
from nvflare.recipe.prod_env import ProdEnv

WEIGHTS = 31

recipe = NumpyFedAvgRecipe(
    name="tumours",
    model=[0.0] * WEIGHTS,
    min_clients=2,
    num_rounds=2,
    train_script=str(Path(__file__).with_name("site.py")),
)
run = recipe.execute(ProdEnv(startup_kit_location=sys.argv[1], username="admin@example.org", login_timeout=30))
result = run.get_result()
print(f"TUMOURS status={run.get_status()} result={result}", flush=True)
