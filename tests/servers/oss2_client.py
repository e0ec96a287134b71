"""Puts, reads and looks for an object with the real client of OSS.

Arguments: endpoint, bucket, region, v1 or v4, key id, key secret, token (empty: none). Exit status 0: everything was
as it should be; 3: refused, and why is printed.
"""

import sys

import oss2


def main(endpoint, bucket_name, region, version, key_id, secret, token):
    sign = {"v1": oss2.StsAuth if token else oss2.Auth, "v4": oss2.ProviderAuthV4}[version]
    if version == "v4":
        provider = oss2.credentials.StaticCredentialsProvider(key_id, secret, token or None)
        auth = sign(provider)
    else:
        auth = sign(key_id, secret, token) if token else sign(key_id, secret)
    bucket = oss2.Bucket(auth, endpoint, bucket_name, region=region, connect_timeout=10, enable_crc=False)
    name = "a b/ü+" + version
    content = bytes(range(256)) * 64
    bucket.put_object(name, content, headers={"Content-Type": "application/x-test", "x-oss-meta-who": "me"})
    assert bucket.get_object(name).read() == content
    part = bucket.get_object(name, byte_range=(100, 1099))
    assert part.status == 206 and part.read() == content[100:1100]
    assert bucket.head_object(name).content_length == len(content)
    try:
        bucket.get_object("no such object")
    except oss2.exceptions.NoSuchKey:
        pass
    else:
        raise AssertionError("an object that is not there was found")


if __name__ == "__main__":
    try:
        main(*sys.argv[1:])
    except oss2.exceptions.ServerError as error:
        print(error.status, error.code)
        sys.exit(3)
