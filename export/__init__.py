"""What is done with a finished ranker: convert, quantize, measure, run. Imports no other room of `rankdistill`.

Libraries that would tell their makers of their use are silenced here, before any of them is imported: this runs before
every module of `rankdistill`. What a user has set stays.
"""

import os

if __name__ != "rankdistill.export":  # second copies of all modules would not know of each other
    raise ImportError(f"the folder {__name__}/ is the package rankdistill.export: from rankdistill import Ranker")

SILENT = {
    "ORT_DISABLE_TELEMETRY": "1",  # onnxruntime: an id and a database in the home, and look-ups of Microsoft's address
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_UPDATE_DOWNLOAD_COUNTS": "0",  # datasets asks an address for each data set that it loads
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "RAY_USAGE_STATS_ENABLED": "0",
}

for _name, _value in SILENT.items():
    os.environ.setdefault(_name, _value)
