import sys
from pathlib import Path

# importlib mode puts no folder on the path; these tests share two modules of their own.
sys.path.insert(0, str(Path(__file__).parent))
