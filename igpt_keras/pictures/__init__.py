"""Pictures to look at: contact sheets of small images, of completions and of samples."""

from igpt_keras.pictures.completions import completion_sheet, known_rows
from igpt_keras.pictures.contact_sheets import contact_sheet, keep_known, save_png

__all__ = ["completion_sheet", "contact_sheet", "keep_known", "known_rows", "save_png"]
