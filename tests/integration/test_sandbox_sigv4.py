"""Signatures against the worked examples of the Amazon S3 API Reference."""

import calendar
import hashlib

from syncd.sandbox.sigv4 import Keys, presign, sign_headers

EXAMPLE_KEYS = Keys("AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY")
EXAMPLE_TIME_S = calendar.timegm((2013, 5, 24, 0, 0, 0))
BUCKET = "https://examplebucket.s3.amazonaws.com"


def test_presigned_get_is_the_one_of_the_aws_documentation() -> None:
    url = presign(EXAMPLE_KEYS, "GET", f"{BUCKET}/test.txt", at_s=EXAMPLE_TIME_S, expires_s=86400)

    assert url == (
        "https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256"
        "&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request"
        "&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
        "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    )


def test_signed_get_with_a_range_is_the_one_of_the_aws_documentation() -> None:
    headers = sign_headers(
        EXAMPLE_KEYS,
        "GET",
        f"{BUCKET}/test.txt",
        at_s=EXAMPLE_TIME_S,
        headers={"Range": "bytes=0-9"},
    )

    assert headers["authorization"] == (
        "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,"
        "SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,"
        "Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
    )


def test_signed_put_of_a_body_is_the_one_of_the_aws_documentation() -> None:
    headers = sign_headers(
        EXAMPLE_KEYS,
        "PUT",
        f"{BUCKET}/test%24file.text",
        at_s=EXAMPLE_TIME_S,
        headers={
            "Date": "Fri, 24 May 2013 00:00:00 GMT",
            "x-amz-storage-class": "REDUCED_REDUNDANCY",
        },
        payload_sha256=hashlib.sha256(b"Welcome to Amazon S3.").hexdigest(),
    )

    assert headers["authorization"].endswith(
        "Signature=98ad721746da40c64f1a55b78f14c238d841ea1380cd77a1b5971af0ece108bd"
    )


def test_signed_list_with_a_query_is_the_one_of_the_aws_documentation() -> None:
    headers = sign_headers(
        EXAMPLE_KEYS, "GET", f"{BUCKET}/?max-keys=2&prefix=J", at_s=EXAMPLE_TIME_S
    )

    assert headers["authorization"].endswith(
        "Signature=34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"
    )
