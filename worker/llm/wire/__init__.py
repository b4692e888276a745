"""What the APIs of providers say, as pure functions: a request's body, an answer, the events of a stream, an error.

Nothing here sends anything or knows an SDK: bytes and JSON values in, our values out.
"""
