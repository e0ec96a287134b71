#!/bin/bash
# The tutorial's steps up to the mounts, as newcomers type them: an image is built with default flags, layer upon layer, and
# configurations are written. Works in the current directory.
#
# LAYER1 to LAYER4: the unpacked layers, the lowest first. REGISTRY, REPO: where the blobs will be, as host:port and name.
set -euo pipefail

mkdir mnt
mkdir -p nydus-image/{blobs,layer1,layer2,layer3,layer4}

nydus-image create \
  --bootstrap ./nydus-image/layer1/bootstrap \
  --blob-dir ./nydus-image/blobs \
  --compressor none "$LAYER1"

nydus-image create \
  --parent-bootstrap ./nydus-image/layer1/bootstrap \
  --bootstrap ./nydus-image/layer2/bootstrap \
  --blob-dir ./nydus-image/blobs \
  --compressor none "$LAYER2"

nydus-image create \
  --parent-bootstrap ./nydus-image/layer2/bootstrap \
  --bootstrap ./nydus-image/layer3/bootstrap \
  --blob-dir ./nydus-image/blobs \
  --compressor none "$LAYER3"

nydus-image create \
  --parent-bootstrap ./nydus-image/layer3/bootstrap \
  --bootstrap ./nydus-image/layer4/bootstrap \
  --blob-dir ./nydus-image/blobs \
  --compressor none "$LAYER4"

cat > localfs.json <<END
{
  "device": {
    "backend": {
      "type": "localfs",
      "config": {
        "dir": "$PWD/nydus-image/blobs"
      }
    }
  },
  "mode": "direct"
}
END

cat > registry.json <<END
{
  "device": {
    "backend": {
      "type": "registry",
      "config": {
        "scheme": "http",
        "host": "$REGISTRY",
        "repo": "$REPO"
      }
    },
    "digest_validate": false
  },
  "mode": "direct"
}
END

# The same with a cache directory, as configurations for nydusd usually are.
cat > blobcache.json <<END
{
  "device": {
    "backend": {
      "type": "registry",
      "config": {
        "scheme": "http",
        "host": "$REGISTRY",
        "repo": "$REPO"
      }
    },
    "cache": {
      "type": "blobcache",
      "config": {
        "work_dir": "cache"
      }
    }
  },
  "mode": "direct",
  "digest_validate": false,
  "iostats_files": false,
  "enable_xattr": true
}
END
