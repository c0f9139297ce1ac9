"""What a message of WhatsApp's text export is: the app writes its own words among people's.

In the language of the phone: those below are the most spoken ones. On iOS such words begin with the
mark U+200E, which nobody types, so there they are known in any language.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Final

_MARK: Final = "\u200e"
_LEFT_OUT: Final = (
    "omitted|weggelassen|ausgeschlossen|omitid[oa]s?|omis(?:es?)?|absente?s?|omess[ioae]|ocult[oa]s?"
    "|ocultad[oa]s?|weggelaten|pominięto|pominięte|dahil edilmedi|без медиафайлов|пропущен[оаы]?"
)
_ATTACHED: Final = (
    "attached|angehängt|Anhang|adjunto|joint|pièce jointe|allegato|anexado|bijgevoegd|bijgesloten"
)
_MEDIA: Final = re.compile(
    rf"^[^\n]* • [^\n]*{_MARK}[^\n{_MARK}]{{1,40}} (?:{_LEFT_OUT})"  # a document with its pages
    rf"|{_MARK}?<[^<>\n]*(?:{_LEFT_OUT})[^<>\n]*>"
    rf"|{_MARK}[^\n{_MARK}]{{1,40}} (?:{_LEFT_OUT})\.?"
    rf"|{_MARK}?<(?:{_ATTACHED}) ?: [^<>\n]+>"
    rf"|^[^\n]{{1,120}}\.\w{{2,5}} \([^()\n]*(?:{_ATTACHED})[^()\n]*\)",
    re.IGNORECASE,
)
"""What stands for a picture or another file: ``<Media omitted>``, ``image omitted``, its name."""
_BARE_MEDIA: Final = re.compile(
    "(?:image|photo|picture|video(?: note)?|audio|voice message|gif|sticker|document|contact card"
    "|bild|dokument|kontaktkarte|imagen|documento|vidéo|immagine|imagem|áudio|afbeelding)"
    f" (?:{_LEFT_OUT})",
    re.IGNORECASE,
)
"""The same of iOS, where a copy of the file has lost the mark."""
_DELETED: Final = re.compile(
    rf"{_MARK}?(?:This message was deleted|You deleted this message"
    "|Diese Nachricht wurde gelöscht|Du hast diese Nachricht gelöscht"
    "|Se eliminó este mensaje|Este mensaje fue eliminado|Eliminaste este mensaje"
    "|Ce message a été supprimé|Vous avez supprimé ce message"
    "|Questo messaggio è stato eliminato|Hai eliminato questo messaggio"
    "|Mensagem apagada|Esta mensagem foi apagada|Você apagou esta mensagem|Apagou esta mensagem"
    "|Dit bericht is verwijderd|U hebt dit bericht verwijderd|Je hebt dit bericht verwijderd"
    "|Данное сообщение удалено|Вы удалили данное сообщение)[^\n]{0,30}",
    re.IGNORECASE,
)
_EDITED: Final = re.compile(
    rf" ?{_MARK}?<(?:This message was edited|Diese Nachricht wurde bearbeitet|Se editó este mensaje"
    "|Ce message a été modifié|Questo messaggio è stato modificato|Mensagem editada"
    "|Dit bericht is bewerkt|Сообщение изменено)\\.?>$",
    re.IGNORECASE,
)


def words(message: Mapping[str, Any]) -> str:
    """A message's text without what the app put into it."""
    text = _MEDIA.sub("", _EDITED.sub("", str(message["text"])))
    return text.replace(_MARK, "").strip()


def kind(message: Mapping[str, Any]) -> str | None:
    """Name what a message is, if it is none of the conversation."""
    text = str(message["text"]).strip()
    if "date" not in message:
        return "lines before the first message"
    if "from" not in message:
        return "service messages"
    if _DELETED.fullmatch(text):
        return "deleted messages"
    if _BARE_MEDIA.fullmatch(text) or (_MEDIA.search(text) and not words(message)):
        return "media"
    if text.startswith(_MARK) and not _MEDIA.match(text) and text[1:2] != "@":
        return "service messages"
    return None if words(message) else "messages without text"


def aside(message: Mapping[str, Any]) -> str | None:
    """Name what stands beside a message's words."""
    if "is_odd" in message:
        return "lines with an impossible date, kept in the message before"
    return "media beside words" if _MEDIA.search(str(message["text"])) else None
