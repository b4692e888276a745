"""Make a small repository with a branch that changes something: `python make_repository.py shop`."""

import subprocess
import sys
from pathlib import Path

BEFORE = {
    "shop/prices.py": '''\
PRICES = {"earl grey": 450, "sencha": 620}


def price(tea, tins=1):
    """Give the price in cents."""
    return PRICES[tea.lower()] * tins
''',
    "shop/orders.py": '''\
from shop.prices import price


def total(order):
    """Give what an order costs, in cents."""
    return sum(price(tea, tins) for tea, tins in order.items())
''',
    "README.md": "# Shop\n\nSells tea.\n",
}
AFTER = {
    "shop/prices.py": '''\
PRICES = {"earl grey": 450, "sencha": 620, "assam": 500}


def price(tea, tins=1):
    """Give the price in cents."""
    return PRICES[tea.lower()] * tins
''',
    "shop/orders.py": '''\
import subprocess

from shop.prices import price


def total(order, discounts=[]):
    """Give what an order costs, in cents."""
    try:
        full = sum(price(tea, tins) for tea, tins in order.items())
    except:
        full = 0
    return full - sum(discounts)


def print_receipt(order, printer):
    subprocess.run("lp -d " + printer, shell=True, input=str(total(order)).encode())
''',
    "README.md": "# Shop\n\nSells tea, and prints receipts.\n",
}


def make(folder: Path) -> None:
    git(folder.parent, "init", "--quiet", "--initial-branch=main", str(folder))
    commit(folder, BEFORE, "Sell tea")
    git(folder, "switch", "--quiet", "--create", "receipts")
    commit(folder, AFTER, "Print receipts, and sell Assam")


def commit(folder: Path, files: dict[str, str], message: str) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    git(folder, "add", "--all")
    git(folder, "-c", "user.name=Ada", "-c", "user.email=ada@example.com", "commit", "--quiet", "--message", message)


def git(folder: Path, *arguments: str) -> None:
    subprocess.run(["git", "-C", str(folder), *arguments], check=True)


if __name__ == "__main__":
    make(Path(sys.argv[1] if len(sys.argv) > 1 else "shop").resolve())
