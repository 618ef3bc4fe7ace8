"""Amounts as people read them: shares in percent, money in its currency, differences with their sign. Pure."""

from __future__ import annotations

from typing import Final

_WITHOUT_DECIMALS: Final = frozenset("BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX VND VUV XAF XOF XPF".split())  # noqa: SIM905
_THREE_DECIMALS: Final = frozenset("BHD IQD JOD KWD LYD OMR TND".split())  # noqa: SIM905
PLAIN: Final = frozenset({"number", "count", "minor", "share"})
"""Units that are no currency."""


def scale(unit: str, currency: str = "") -> float:
    """Factor from values as they are kept to values as they are shown."""
    if unit == "share":
        return 100.0
    return 1.0 if unit != "minor" or not currency else float(10 ** -_decimals(currency))


def _decimals(currency: str) -> int:
    return 0 if currency in _WITHOUT_DECIMALS else 3 if currency in _THREE_DECIMALS else 2


def label(unit: str, currency: str = "", of: str = "unit") -> str:
    """What numbers on an axis are."""
    if unit == "share":
        return "percentage points"
    if unit == "minor":
        return f"{currency or 'minor units'} per {of}"
    return f"per {of}" if unit in PLAIN else f"{unit} per {of}"


def shown(value: float, unit: str, currency: str = "", *, signed: bool = False, named: bool = True) -> str:
    """An amount; `named` says its unit too, and a signed share is one of percentage points."""
    sign = "+" if signed else ""
    if unit == "share":
        return f"{100 * value:{sign},.2f}" + ((" percentage points" if signed else " %") if named else "")
    if unit == "minor":
        digits = _decimals(currency) if currency else 1
        text = f"{value * scale(unit, currency):{sign},.{digits}f}"
        return f"{text} {currency or 'minor units'}" if named else text
    text = f"{value:{sign},.2f}" if unit == "count" or abs(value) >= 100 else f"{value:{sign},.4g}"
    if unit in PLAIN or not named:
        return text
    return f"{text} {unit}" if unit.isalpha() else f"{text[:1]}{unit}{text[1:]}" if text[0] in "+-" else f"{unit}{text}"
