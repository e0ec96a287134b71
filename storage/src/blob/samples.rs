//! Small blobs made by hand, for tests.

use bytes::Bytes;
use zerocopy::IntoBytes;

use super::layout::{
    BatchContext, CI_HEADER_SIZE, CI_MAGIC, CONTEXT_SIZE, CiHeader, EntryV1, EntryV2, ZranContext,
};
use super::{BlobDescription, BlobFeatures, BlobId, ChunkTable, CiLocation, Compressor};
use crate::Result;
use crate::digest::Digester;

/// Stored bytes of the sample blobs' data.
pub(super) const DATA_SIZE: u64 = 1 << 20;
/// Decoded bytes of the sample blobs.
pub(super) const DECODED_SIZE: u64 = 64 << 20;

/// A chunk table before it is packed: a test changes one thing and looks at what is said.
#[derive(Clone)]
pub(super) struct Sample {
    pub blob: BlobDescription,
    pub header: CiHeader,
    pub v1: Vec<EntryV1>,
    pub v2: Vec<EntryV2>,
    pub batch: Vec<BatchContext>,
    pub zran: Vec<ZranContext>,
    pub dictionaries: Vec<u8>,
}

impl Sample {
    /// An empty table. Contexts and 24-byte entries are there if the features say so.
    pub(super) fn new(features: BlobFeatures) -> Self {
        let blob = BlobDescription {
            index: 0,
            id: BlobId::new("sample").unwrap(),
            chunk_size: 1 << 20,
            chunk_count: 0,
            compressor: Compressor::Zstd,
            digester: Digester::Blake3,
            cipher: None,
            features: features | BlobFeatures::ALIGNED | BlobFeatures::CAP_TAR_TOC,
            compressed_size: DATA_SIZE,
            uncompressed_size: DECODED_SIZE,
            ci: Some(CiLocation {
                compressor: Compressor::None,
                offset: DATA_SIZE,
                compressed_size: 0,
                uncompressed_size: 0,
            }),
            toc: None,
            meta_id: None,
            meta_size: 0,
        };
        let header = CiHeader {
            magic: CI_MAGIC.into(),
            features: blob.features.bits().into(),
            ci_compressor: 0.into(),
            ci_entries: 0.into(),
            ci_offset: DATA_SIZE.into(),
            ci_compressed_size: 0.into(),
            ci_uncompressed_size: 0.into(),
            ctx_offset: 0.into(),
            ctx_size: 0.into(),
            ctx_count: 0.into(),
            reserved: [0; 4032],
            magic2: CI_MAGIC.into(),
        };
        let (v1, v2, batch, zran) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { blob, header, v1, v2, batch, zran, dictionaries: Vec::new() }
    }

    /// Makes counts and sizes agree with the records.
    pub(super) fn settle(mut self) -> Self {
        let count = (self.v1.len() + self.v2.len()) as u32;
        let contexts = self.batch.len() + self.zran.len();
        let context_size = contexts * CONTEXT_SIZE + self.dictionaries.len();
        let entries_size = size_of_val(&*self.v1) + size_of_val(&*self.v2);
        let size = (entries_size + context_size) as u64;
        self.blob.chunk_count = count;
        let ci = self.blob.ci.as_mut().unwrap();
        (ci.compressed_size, ci.uncompressed_size) = (size, size);
        self.header.ci_entries = count.into();
        self.header.ci_compressed_size = size.into();
        self.header.ci_uncompressed_size = size.into();
        if contexts != 0 {
            self.header.ctx_offset = (entries_size as u64).into();
            self.header.ctx_size = (context_size as u64).into();
            self.header.ctx_count = (contexts as u32).into();
        }
        self
    }

    pub(super) fn array(&self) -> Vec<u8> {
        let parts = [
            self.v1.as_bytes(),
            self.v2.as_bytes(),
            self.batch.as_bytes(),
            self.zran.as_bytes(),
            &self.dictionaries,
        ];
        parts.concat()
    }

    pub(super) fn parse(&self) -> Result<ChunkTable> {
        assert_eq!(self.header.as_bytes().len(), CI_HEADER_SIZE);
        ChunkTable::parse(&self.blob, Bytes::from(self.array()), self.header.as_bytes())
    }
}

/// A 16-byte entry.
pub(super) fn v1(decoded: (u64, u32), stored: (u64, u32)) -> EntryV1 {
    let (u, c) = (u64::from(decoded.1 - 1), u64::from(stored.1 - 1));
    EntryV1 {
        uncompressed: ((u & 0xf_ffff) << 44 | decoded.0 | (u >> 20) << 8).into(),
        compressed: ((c & 0xf_ffff) << 44 | (c >> 20) << 40 | stored.0).into(),
    }
}

/// A 24-byte entry.
pub(super) fn v2(flags: u8, decoded: (u64, u32), stored: (u64, u32), data: u64) -> EntryV2 {
    EntryV2 {
        uncompressed: (u64::from(flags) << 56 | u64::from(decoded.1 - 1) << 32 | decoded.0 >> 12).into(),
        compressed: (u64::from(stored.1) << 40 | stored.0).into(),
        data: data.into(),
    }
}

/// What `data` of an entry says of a place in a batch or context.
pub(super) fn place(context: u32, offset: u32) -> u64 {
    u64::from(context) << 32 | u64::from(offset)
}

pub(super) fn batch(stored: u32, decoded: u32) -> BatchContext {
    BatchContext { compressed_size: stored.into(), uncompressed_size: decoded.into(), reserved: [0; 32] }
}

pub(super) fn zran(input: (u64, u32), out_len: u32, dictionary: (u64, u32)) -> ZranContext {
    ZranContext {
        in_offset: input.0.into(),
        out_offset: 0.into(),
        dict_offset: dictionary.0.into(),
        in_len: input.1.into(),
        out_len: out_len.into(),
        dict_size: dictionary.1.into(),
        byte: 0,
        bits: 0,
        reserved: [0; 2],
    }
}
