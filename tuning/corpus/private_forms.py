"""The forms of private data: e-mail addresses, phone, card and account numbers, IP addresses, keys.

A finder for each kind takes a text and the region whose national phone numbers count, and yields
its findings in order. NUL, which no dialogue holds, stands for what an earlier finder has taken.
What each one finds and leaves is measured on labelled sentences: docs/private-data.md.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Final, Literal, get_args

from phonenumbers import (
    Leniency,
    PhoneNumberFormat,
    PhoneNumberMatch,
    PhoneNumberMatcher,
    format_number,
)

Kind = Literal["email", "phone", "card", "iban", "ip", "key"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """One finding: ``text[start:end]``."""

    start: int
    end: int
    kind: Kind
    value: str
    """What it says, whichever way it is spelled: equal for two spellings of one phone number."""


Finder = Callable[[str, str | None], Iterator[Span]]


def without(text: str, spans: Iterable[Span]) -> str:
    """Put NUL in the place of each character of some spans, which are in order."""
    parts: list[str] = []
    end = 0
    for span in spans:
        parts += [text[end : span.start], "\0" * (span.end - span.start)]
        end = span.end
    return "".join([*parts, text[end:]])


_DIGIT: Final = re.compile(r"\d")

_KEY: Final = re.compile(
    r"""(?<![\w-])(?:
      A[KS]IA[A-Z0-9]{16}                                       # Amazon
    | gh[pousr]_[A-Za-z0-9]{30,255} | github_pat_\w{40,255} | glpat-[\w-]{20,255}
    | [rs]k_(?:live|test)_[A-Za-z0-9]{16,255}                   # Stripe
    | sk-(?=[A-Za-z_-]*\d)[\w-]{20,255}                         # OpenAI, Anthropic
    | xox[abeoprs]-[\w-]{12,255} | xapp-[\w-]{20,255}           # Slack
    | AIza[\w-]{35} | ya29\.[\w-]{20,512} | GOCSPX-[\w-]{20,64} # Google
    | hf_[A-Za-z0-9]{30,64} | npm_[A-Za-z0-9]{36} | pypi-[\w-]{50,512}
    | SG\.[\w-]{16,64}\.[\w-]{16,64}                            # SendGrid
    | [0-9]{8,10}:AA[\w-]{32,40}                                # Telegram
    | eyJ[\w-]{13,4096}\.[\w-]{10,8192}\.[\w-]{5,1024}          # JSON Web Token, RFC 7519
    )(?![\w-])
    | -----BEGIN[ ](?:[A-Z0-9]+[ ]){0,3}PRIVATE[ ]KEY-----      # PEM, RFC 7468
      (?:[\s\S]{1,16384}?-----END[ ](?:[A-Z0-9]+[ ]){0,3}PRIVATE[ ]KEY-----
        |[A-Za-z0-9+/=\s]*[A-Za-z0-9+/=])
    | (?<=://)[^\s/@:]{1,64}:[^\s/@]{1,255}(?=@[\w\[])          # user:password@host
    """,
    re.VERBOSE | re.ASCII,
)


def keys(text: str, region: str | None) -> Iterator[Span]:
    """Yield keys and tokens by what their issuers let them begin with, and whole PEM blocks."""
    for found in _KEY.finditer(text):
        yield Span(found.start(), found.end(), "key", found[0])


IBAN_BEGIN: Final = re.compile(r"[0-9](?<=[A-Za-z]{2}[0-9])[0-9][ -]?[A-Za-z0-9]{3}")
_IBAN_HEAD: Final = re.compile(r"(?<![A-Za-z0-9])([A-Za-z]{2})[0-9]{2}(?=[ -]?[A-Za-z0-9])")
_IBAN_LENGTHS: Final = {
    country: length
    for length, countries in {
        15: "NO",
        16: "BE",
        18: "DK FI FK FO GL NL SD",
        19: "MK SI",
        20: "AT BA EE KZ LT LU MN XK",
        21: "CH HR LI LV",
        22: "BG BH CR DE GB GE IE ME RS VA",
        23: "AE GI IL IQ OM SO TL",
        24: "AD CZ ES MD PK RO SA SE SK TN VG",
        25: "LY PT ST",
        26: "IS TR",
        27: "BI DJ FR GR IT MC MR SM",
        28: "AL AZ BY CY DO GT HN HU LB NI PL SV",
        29: "BR EG PS QA UA",
        30: "JO KW MU YE",
        31: "MT SC",
        32: "LC",
        33: "RU",
    }.items()
    for country in countries.split()
}
"""Characters of an account number, from SWIFT's IBAN registry."""


def ibans(text: str, region: str | None) -> Iterator[Span]:
    """Yield account numbers of their country's length with the right check digits (ISO 13616)."""
    end = 0
    for head in _IBAN_HEAD.finditer(text):
        length = _IBAN_LENGTHS.get(head[1].upper())
        if length is None or head.start() < end:
            continue
        rest = rf"(?:[ -]?[A-Za-z0-9]){{{length - 4}}}(?![A-Za-z0-9])"
        if body := re.compile(rest).match(text, head.end()):
            number = _compact(text[head.start() : body.end()]).upper()
            digits = "".join(str(int(character, 36)) for character in number[4:] + number[:4])
            if int(digits) % 97 == 1:
                end = body.end()
                yield Span(head.start(), end, "iban", number)


CARD_DIGITS: Final = re.compile(r"[0-9](?:[ .-]?[0-9]){12}")
_CARD: Final = re.compile(
    r"(?<![\w.,-])(?:[0-9]{13,19}|[0-9]{4,6}([ .-])[0-9]{3,13}(?:\1[0-9]{2,7}){0,4})(?!\w)"
)
_ISSUED: Final = re.compile(
    r"""4\d{12}(?:\d{3}){0,2}                                          # Visa
    | 5[1-5]\d{14} | 2(?:22[1-9]|2[3-9]\d|[3-6]\d\d|7[01]\d|720)\d{12} # Mastercard
    | 3[47]\d{13}                                                      # American Express
    | 6(?:011|4[4-9]\d|5\d\d)\d{12,15} | 62\d{14,17}                   # Discover, UnionPay
    | 3(?:0[0-5]|[689]\d)\d{11,16} | 35(?:2[89]|[3-8]\d)\d{12,15}      # Diners, JCB
    | (?:5018|5020|5038|5893|6304|6759|676[1-3])\d{9,15}               # Maestro
    | 220[0-4]\d{12,15} | (?:508\d|60\d\d|81\d\d|82\d\d)\d{12}         # Mir, RuPay
    """,
    re.VERBOSE | re.ASCII,
)
"""Beginnings and lengths that card issuers use."""


def cards(text: str, region: str | None) -> Iterator[Span]:
    """Yield numbers as card issuers give them out, with the right last digit (ISO/IEC 7812)."""
    for found in _CARD.finditer(text):
        written = found[0]
        while written:  # a security code or a date may follow in the same spelling
            number = _compact(written)
            if _ISSUED.fullmatch(number) and _passes_luhn(number):
                yield Span(found.start(), found.start() + len(written), "card", number)
                break
            written = written.rpartition(found[1])[0] if found[1] else ""


def _passes_luhn(number: str) -> bool:
    digits = [int(digit) for digit in reversed(number)]
    doubled = (sum(divmod(2 * digit, 10)) for digit in digits[1::2])
    return (sum(digits[::2]) + sum(doubled)) % 10 == 0


def _compact(written: str) -> str:
    return re.sub(r"[ .-]", "", written)


EMAIL_AT: Final = re.compile(r"@(?<=\w@)[^\W_]")
SPELLED_AT: Final = re.compile(
    r"(?:\bat|@)\s?(?:[\])]|gmail|googlem|yahoo|hotm|outlook|icloud|aol|proton|gmx)", re.IGNORECASE
)
_EMAIL: Final = re.compile(
    r"""(?<![\w.+%@-])\w(?:[\w.+%&'-]{0,62}\w)?
      (?: @ (?P<domain>
          (?:[^\W_](?:[\w-]{0,61}[^\W_])?\.){1,8}(?:xn--[a-z0-9-]{2,30}|[^\W\d_]{2,24}))
        | \s?[\[(]\s?(?:at|@)\s?[\])]\s?                            # jo [at] example [dot] org
          (?:[^\W_][\w-]{0,61}(?:\s?[\[(]\s?(?:dot|\.)\s?[\])]\s?|\.|\s?dot\s)){1,4}[^\W\d_]{2,24}
        | \s(?:at|@)\s?(?:gmail|googlemail|yahoo|hotmail|outlook|icloud|aol|proton(?:mail)?|gmx)
          (?:\s?dot\s?|\.)(?:com|net|org|me|de|co\sdot\suk)         # jo at gmail dot com
      )(?![\w@-])
    """,
    re.VERBOSE | re.IGNORECASE,
)
_NO_DOMAIN: Final = re.compile(
    r"v?\d+\.\d.*|.*\.(?:png|jpe?g|gif|webp|svg|bmp|ico|css|js|tsx?|jsx|json|html?|xml|ya?ml|txt|csv"
    r"|pdf|mp[34]|wav)",
    re.IGNORECASE,
)
"""Versions of a package and names of files, such as ``icon@2x.png``."""
_COPY_PATH: Final = re.compile(r":[\w~.-]*/")
"""What follows the host in ``git@example.com:team/project``."""


def emails(text: str, region: str | None) -> Iterator[Span]:
    """Yield e-mail addresses, those too whose signs are spelled out."""
    for found in _EMAIL.finditer(text):
        domain = found["domain"]
        if domain and (_NO_DOMAIN.fullmatch(domain) or _COPY_PATH.match(text, found.end())):
            continue
        value = re.sub(r"\s?[\[(]?\s?\bdot\b\s?[\])]?\s?", ".", found[0], flags=re.IGNORECASE)
        value = re.sub(r"\s?[\[(]?\s?(?:\bat\b|@)\s?[\])]?\s?", "@", value, flags=re.IGNORECASE)
        yield Span(found.start(), found.end(), "email", value.casefold())


V6_COLONS: Final = re.compile(r":[0-9A-Fa-f]{0,4}(?:(?<=::)|:[0-9A-Fa-f]{0,4}:)")
_V6: Final = re.compile(
    r"(?<![\w.])(?<![0-9A-Fa-f:]:)(?:[0-9A-Fa-f]{0,4}:){2,7}"
    r"(?:(?:[0-9]{1,3}\.){3}[0-9]{1,3}|[0-9A-Fa-f]{1,4}|(?<=::))(?!\w|:\w|::)"
)
_USED_V6: Final = tuple(map(ipaddress.IPv6Network, ("2000::/3", "fc00::/7", "fe80::/10")))


def v6_addresses(text: str, region: str | None) -> Iterator[Span]:
    """Yield addresses of hosts: other ranges are in no use, and ``add::face`` is code."""
    for found in _V6.finditer(text):
        try:
            address = ipaddress.IPv6Address(found[0])
        except ValueError:
            continue
        if address.ipv4_mapped or any(address in network for network in _USED_V6):
            yield Span(found.start(), found.end(), "ip", str(address))


V4_POINTS: Final = re.compile(r"[0-9]\.[0-9]{1,3}\.[0-9]")
_V4: Final = re.compile(
    r"(?<![\w.])[0-9]{1,3}(?:\.[0-9]{1,3}){3}(?!\w|\.[0-9]|-(?!(?:[0-9]+\.){3})\w)"
)
_VERSION: Final = re.compile(
    r"(?:\b(?:v|ver|version|release|build|firmware|driver|patch|update|upgrade|section|chapter|"
    r"clause|table|figure|chrome|firefox|edge|safari)s?[.:]?\s*(?:is|to|from|=)?\s*|§\s?"
    r"|[=<>~]=\s*|[a-z]/)$",
    re.IGNORECASE,
)
"""Before four numbers that are a version, not an address."""


def v4_addresses(text: str, region: str | None) -> Iterator[Span]:
    """Yield addresses of hosts: no masks, no networks, no versions, and nothing like 1.2.3.4."""
    for found in _V4.finditer(text):
        parts = found[0].split(".")
        first, *others = map(int, parts)
        is_host = 0 < first < 255 and first != 127 and max(others) < 256 and any(others)
        is_long = any(len(part) > 1 for part in parts)
        before = text[max(0, found.start() - 32) : found.start()]
        if is_host and is_long and not _VERSION.search(before):
            yield Span(found.start(), found.end(), "ip", found[0])


PHONE_DIGITS: Final = re.compile(r"\d(?<!\w\d)(?:[^\w\n,;:!?]{0,3}\d){6}")
_DASHES: Final = dict.fromkeys(range(0x2010, 0x2016), "-")
_LINE: Final = re.compile(r"[^\n]+")
_ZEROS: Final = re.compile(r"(?<![\w.,:+/-])00(?=[1-9]\d)")
_PHONE_WORD: Final = re.compile(
    r"\b(?:phone|call|tel|telephone|mobile|cell|fax|whatsapp|sms|handy|reach|dial)\b", re.IGNORECASE
)
_REFERENCE: Final = re.compile(
    r"(?:\b(?:order|invoice|tracking|parcel|shipment|reference|ref|isbn|issn|doi|serial|sku|upc|ean|"
    r"imei|account|acct|customer|member|policy|confirmation|booking|reservation|transaction|"
    r"timestamp|ticket|id|usd|eur|gbp|bestellung|rechnung|kundennummer|bestellnummer)|\b(?:case|item|model|"
    r"part|product|flight|patent|licen[cs]e)\W{1,2}(?:number|num|no|nr|code|id|#)|[#№])"
    r"\W{0,3}(?:number|num|no|nr|code|id)?\W{0,3}(?:is|was|ist)?\W{0,3}$",
    re.IGNORECASE,
)
"""Before a number that names something else than a telephone."""
_AMOUNT: Final = re.compile(
    r"\s?(?:[%€$£¥°]|(?:usd|eur|gbp|dollars?|euros?|bytes?|people|users|years?|km|miles|views|"
    r"followers|seconds|times)\b)",
    re.IGNORECASE,
)
"""Behind a number that counts something."""
_DECIMAL: Final = re.compile(r"\D?\d+[.,]\d+\D?")


def phones(text: str, region: str | None) -> Iterator[Span]:
    """Yield valid phone numbers: with a country code, and those of a region as it writes them."""
    for line in _LINE.finditer(text):  # the matcher is slow
        if PHONE_DIGITS.search(line[0]):
            for span in sorted(_phones_of_line(line[0], region)):
                yield replace(span, start=line.start() + span.start, end=line.start() + span.end)


def _phones_of_line(line: str, region: str | None) -> Iterator[Span]:
    plain = _ZEROS.sub(" +", line.translate(_DASHES))  # 0049… is +49… wherever one is
    found = []
    for match in PhoneNumberMatcher(plain, None, Leniency.VALID) if "+" in plain else ():
        begins_with_zeros = line[match.start - 1 : match.start + 1] == "00"
        found.append(_phone(match, match.start - begins_with_zeros))
    yield from found
    if region is not None:
        plain = without(plain, found)
        for match in PhoneNumberMatcher(plain, region, Leniency.STRICT_GROUPING):
            if _may_be_phone(plain, match):
                yield _phone(match, match.start)


def _phone(match: PhoneNumberMatch, start: int) -> Span:
    digits = format_number(match.number, PhoneNumberFormat.E164)
    return Span(start, match.end, "phone", f"{digits};{match.number.extension or ''}")


def _may_be_phone(text: str, match: PhoneNumberMatch) -> bool:
    """Tell whether nothing around a number without a country code speaks against it."""
    before, behind = text[max(0, match.start - 32) : match.start], text[match.end :][:16]
    if _PHONE_WORD.search(before):
        return True
    if re.search(r"[\w\0][-_/=.,:]$|[-_/.,$€£¥]$", before) or re.match(r"[-_/=]\w|[.,:]\d", behind):
        return False
    is_other = _REFERENCE.search(before) or _AMOUNT.match(behind)
    return not (is_other or _DECIMAL.fullmatch(match.raw_string))


_SECRET_WORDS: Final = ("key", "pass", "token", "secret", "pwd", "bearer")
_SECRET: Final = re.compile(
    r"""(?:(?<![a-z])|(?<=api)|(?<=auth)|(?<=access)|(?<=secret)|(?<=client)|(?<=private))
      (?:(?P<password>pass(?:word|wort|code|phrase|wd)s?|pwd|pass(?=["']?\s?[:=]))
        |(?P<bearer>bearer)|(?:key|token|secret)s?)(?![a-z])
      (?:["'`]?\s?(?:[:=]|\b(?:is|was|ist)\b:?)\s?|(?<=bearer)\s)["'`]?
      (?P<value>(?![<{$*])[^\s"'`,;<>\0]{6,1024})
    """,
    re.VERBOSE | re.IGNORECASE,
)
_CODE: Final = re.compile(r"(?=.*[0-9])(?=.*[A-Za-z])[\w+/.=~-]{16,}|[0-9a-f]{12,}", re.ASCII)
"""What is no word: base64, hexadecimal digits and their like."""


def secrets(text: str, region: str | None) -> Iterator[Span]:
    """Yield what is said to be a password and has a digit in it, or a key and looks like one."""
    end = 0
    for start, value in sorted(secrets_said(text)):
        if start >= end:
            end = start + len(value)
            yield Span(start, end, "key", value)


def secrets_said(text: str) -> Iterator[tuple[int, str]]:
    """Yield where the values stand, by the word before: looking for each word is the quickest."""
    lower = text.replace("\u0130", "I").lower()  # the one letter that becomes two
    for word in _SECRET_WORDS:
        place = lower.find(word)
        while place >= 0:
            if found := _SECRET.match(text, place):
                value = found["value"].rstrip(".!?:)]}")
                is_password = found["password"] and len(value) >= 6 and _DIGIT.search(value)
                if is_password or _CODE.fullmatch(value):
                    yield found.start("value"), value
            place = lower.find(word, place + 1)
