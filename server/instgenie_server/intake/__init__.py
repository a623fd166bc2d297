"""From a request's bytes to orders: forms within their limits, decoded pictures, checked values.

Errors of clients are `ApiError`s that name the field.
"""

from instgenie_server.intake.a1111 import Img2Img, Img2ImgForm, read_img2img
from instgenie_server.intake.decode import PictureDecoder
from instgenie_server.intake.edit_form import EditForm, JobForm, from_params, read_edit_form, to_orders, to_params
from instgenie_server.intake.fidelity_choice import settled
from instgenie_server.intake.form import FilePart, Form, read_form
from instgenie_server.intake.uploads import Uploads, read_uploads
from instgenie_server.intake.validation_error import to_api_error

__all__ = [
    "EditForm",
    "FilePart",
    "Form",
    "Img2Img",
    "Img2ImgForm",
    "JobForm",
    "PictureDecoder",
    "Uploads",
    "from_params",
    "read_edit_form",
    "read_form",
    "read_img2img",
    "read_uploads",
    "settled",
    "to_api_error",
    "to_orders",
    "to_params",
]
