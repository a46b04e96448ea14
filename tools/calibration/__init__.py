"""What prepare_calibration.py is made of: texts and rows of files, chats through a template."""

BAD_USE, BAD_DATA = 2, 3


class Failure(Exception):
    """Ends the program with a message and an exit code."""

    def __init__(self, code, message):
        super().__init__(message)
        self.code = code
