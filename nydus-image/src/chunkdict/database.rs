//! The database of chunks: SQLite, in a file that later runs add to, or in memory.
//!
//! Invariant: an image is in it as a whole or not at all, and no chunk is without its blob. What is read from a file
//! is checked as far as the types go; the bootstrap that is made of it is checked as a whole when it is written.

use std::path::PathBuf;

use rafs::Version;
use rafs::build::{BlobEntry, Chunk, ImageOptions};
use rusqlite::{Connection, OptionalExtension as _, Row, params};
use storage::blob::{
    BlobDescription, BlobFeatures, BlobId, ChunkFlags, CiLocation, Compressor, StoredChunk, TocLocation,
};
use storage::digest::{Digest, Digester};

use super::{Candidate, Origin};
use crate::error::{Error, Result};

/// `image` and `version` say where a chunk was seen; `format` has what all images must agree in.
const SCHEMA: &str = "
    CREATE TABLE IF NOT EXISTS format (
        id INTEGER PRIMARY KEY CHECK (id = 0),
        fs_version INTEGER NOT NULL, chunk_size INTEGER NOT NULL, compressor INTEGER NOT NULL,
        digester INTEGER NOT NULL, explicit_owners INTEGER NOT NULL
    );
    CREATE TABLE IF NOT EXISTS blob (
        blob_id TEXT PRIMARY KEY,
        chunk_count INTEGER NOT NULL, compressor INTEGER NOT NULL, features INTEGER NOT NULL,
        compressed_size INTEGER NOT NULL, uncompressed_size INTEGER NOT NULL,
        ci_compressor INTEGER, ci_offset INTEGER, ci_compressed_size INTEGER, ci_uncompressed_size INTEGER,
        toc_size INTEGER, toc_digest BLOB
    );
    CREATE TABLE IF NOT EXISTS chunk (
        image TEXT NOT NULL, version TEXT NOT NULL, digest BLOB NOT NULL,
        blob_id TEXT NOT NULL REFERENCES blob (blob_id), chunk_index INTEGER NOT NULL,
        flags INTEGER NOT NULL, crc32c INTEGER,
        compressed_offset INTEGER NOT NULL, compressed_size INTEGER NOT NULL,
        uncompressed_offset INTEGER NOT NULL, uncompressed_size INTEGER NOT NULL,
        PRIMARY KEY (image, version, digest)
    ) WITHOUT ROWID;
    CREATE INDEX IF NOT EXISTS chunk_digest ON chunk (digest);
";

/// Where a database is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Location {
    /// Nowhere: it ends with the program.
    Memory,
    /// In this file, which need not exist.
    File(PathBuf),
}

impl Location {
    /// From `sqlite:///absolute/path` or `sqlite://:memory:`.
    pub fn parse(url: &str) -> std::result::Result<Self, String> {
        match url.strip_prefix("sqlite://") {
            Some(":memory:") => Ok(Self::Memory),
            Some(path) if path.len() > 1 && path.starts_with('/') => Ok(Self::File(path.into())),
            _ => Err("not sqlite:///ABSOLUTE/PATH or sqlite://:memory:".into()),
        }
    }
}

/// An open database.
#[derive(Debug)]
pub struct Database {
    connection: Connection,
    /// As errors call it.
    name: String,
}

impl Database {
    /// Opens it, and makes what is missing in it.
    pub fn open(location: &Location) -> Result<Self> {
        let name = match location {
            Location::Memory => "the database".into(),
            Location::File(path) => path.display().to_string(),
        };
        let failed = |error: rusqlite::Error| Error::entry(name.clone(), error.to_string());
        let connection = match location {
            Location::Memory => Connection::open_in_memory(),
            Location::File(path) => Connection::open(path),
        };
        let connection = connection.map_err(failed)?;
        connection.execute_batch(SCHEMA).map_err(failed)?;
        Ok(Self { connection, name })
    }

    fn failed(&self, error: &rusqlite::Error) -> Error {
        Error::entry(self.name.clone(), error.to_string())
    }

    /// What the images in it have in common; `None` if there are none.
    pub fn options(&self) -> Result<Option<ImageOptions>> {
        let query = "SELECT fs_version, chunk_size, compressor, digester, explicit_owners FROM format";
        let row = self.connection.query_row(query, [], |row| {
            let version: u32 = row.get(0)?;
            let digester: u32 = row.get(3)?;
            Ok(ImageOptions {
                chunk_size: row.get(1)?,
                compressor: compressor(row, 2)?,
                digester: if digester == 0 { Digester::Blake3 } else { Digester::Sha256 },
                explicit_owners: row.get(4)?,
                ..ImageOptions::new(if version == 5 { Version::V5 } else { Version::V6 })
            })
        });
        row.optional().map_err(|error| self.failed(&error))
    }

    /// Says what all images shall have in common.
    pub fn set_options(&mut self, options: &ImageOptions) -> Result<()> {
        let version = match options.version {
            Version::V5 => 5,
            Version::V6 => 6,
        };
        let digester = match options.digester {
            Digester::Blake3 => 0,
            Digester::Sha256 => 1,
        };
        let row = params![
            version,
            options.chunk_size,
            options.compressor as u32,
            digester,
            options.explicit_owners
        ];
        let done = self.connection.execute("INSERT INTO format VALUES (0, ?1, ?2, ?3, ?4, ?5)", row);
        done.map(drop).map_err(|error| self.failed(&error))
    }

    /// Puts an image into the database, in place of what is there of it. `chunks` are those of a blob, by its place.
    pub fn replace<'a, I: Iterator<Item = &'a Chunk>>(
        &mut self,
        origin: &Origin,
        blobs: &[BlobEntry],
        chunks: impl Fn(u32) -> I,
    ) -> Result<()> {
        let name = self.name.clone();
        let failed = |error: rusqlite::Error| Error::entry(name.clone(), error.to_string());
        let transaction = self.connection.transaction().map_err(failed)?;
        let write = || -> rusqlite::Result<()> {
            let delete = "DELETE FROM chunk WHERE image = ?1 AND version = ?2";
            transaction.execute(delete, params![origin.image, origin.version])?;
            let mut insert_blob = transaction.prepare(
                "INSERT OR REPLACE INTO blob VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12)",
            )?;
            let mut insert_chunk = transaction.prepare(
                "INSERT OR IGNORE INTO chunk VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11)",
            )?;
            for (place, blob) in (0..).zip(blobs) {
                let mut chunks = chunks(place).peekable();
                if chunks.peek().is_none() {
                    continue;
                }
                let BlobDescription { id, features, ci, toc, .. } = &blob.description;
                insert_blob.execute(params![
                    id.as_str(),
                    blob.description.chunk_count,
                    blob.description.compressor as u32,
                    features.bits(),
                    blob.description.compressed_size,
                    blob.description.uncompressed_size,
                    ci.map(|ci| ci.compressor as u32),
                    ci.map(|ci| ci.offset),
                    ci.map(|ci| ci.compressed_size),
                    ci.map(|ci| ci.uncompressed_size),
                    toc.map(|toc| toc.size),
                    toc.map(|toc| toc.digest.0),
                ])?;
                for chunk in chunks {
                    insert_chunk.execute(params![
                        origin.image,
                        origin.version,
                        chunk.digest.0,
                        id.as_str(),
                        chunk.index,
                        chunk.stored.flags.bits(),
                        chunk.stored.crc32c,
                        chunk.stored.compressed_offset,
                        chunk.stored.compressed_size,
                        chunk.uncompressed_offset,
                        chunk.uncompressed_size,
                    ])?;
                }
            }
            Ok(())
        };
        write().map_err(failed)?;
        transaction.commit().map_err(failed)
    }

    /// The chunks that more than one image has, once for each of these images.
    pub fn shared(&self) -> Result<Vec<Candidate>> {
        let query = "
            SELECT c.digest, c.blob_id, c.chunk_index, c.flags, c.crc32c, c.compressed_offset,
                   c.compressed_size, c.uncompressed_offset, c.uncompressed_size, s.images
            FROM chunk c JOIN (
                SELECT digest, COUNT(*) AS images FROM chunk GROUP BY digest HAVING COUNT(*) > 1
            ) s ON s.digest = c.digest
            ORDER BY c.digest, c.image, c.version";
        let read = || -> rusqlite::Result<Vec<Candidate>> {
            let mut statement = self.connection.prepare(query)?;
            statement.query_map([], candidate)?.collect()
        };
        read().map_err(|error| self.failed(&error))
    }

    /// A blob that a chunk is of.
    pub fn blob(&self, id: &BlobId) -> Result<BlobEntry> {
        let options = self.options()?.ok_or_else(|| Error::entry(self.name.clone(), "has no format"))?;
        let query = "
            SELECT chunk_count, compressor, features, compressed_size, uncompressed_size,
                   ci_compressor, ci_offset, ci_compressed_size, ci_uncompressed_size, toc_size, toc_digest
            FROM blob WHERE blob_id = ?1";
        let description = self.connection.query_row(query, [id.as_str()], |row| {
            let ci = match row.get::<_, Option<u64>>(6)? {
                Some(offset) => Some(CiLocation {
                    compressor: compressor(row, 5)?,
                    offset,
                    compressed_size: row.get(7)?,
                    uncompressed_size: row.get(8)?,
                }),
                None => None,
            };
            let toc = match row.get::<_, Option<u32>>(9)? {
                Some(size) => Some(TocLocation { size, digest: Digest(row.get(10)?) }),
                None => None,
            };
            Ok(BlobDescription {
                index: 0,
                id: id.clone(),
                chunk_size: options.chunk_size,
                chunk_count: row.get(0)?,
                compressor: compressor(row, 1)?,
                digester: options.digester,
                cipher: None,
                features: BlobFeatures::from_disk(row.get(2)?).map_err(|error| wrong(2, error))?,
                compressed_size: row.get(3)?,
                uncompressed_size: row.get(4)?,
                ci,
                toc,
                meta_id: None,
                meta_size: 0,
            })
        });
        Ok(description.map_err(|error| self.failed(&error))?.into())
    }
}

fn candidate(row: &Row<'_>) -> rusqlite::Result<Candidate> {
    let id: String = row.get(1)?;
    Ok(Candidate {
        chunk: Chunk {
            digest: Digest(row.get(0)?),
            blob_index: 0,
            index: row.get(2)?,
            stored: StoredChunk {
                flags: ChunkFlags::from_bits_truncate(row.get(3)?),
                compressed_offset: row.get(5)?,
                compressed_size: row.get(6)?,
                unit_index: 0,
                unit_offset: 0,
                crc32c: row.get(4)?,
            },
            uncompressed_offset: row.get(7)?,
            uncompressed_size: row.get(8)?,
            inherited_file_offset: None,
        },
        blob: BlobId::new(&id).map_err(|error| wrong(1, error))?,
        images: row.get(9)?,
    })
}

fn compressor(row: &Row<'_>, column: usize) -> rusqlite::Result<Compressor> {
    Compressor::try_from(row.get::<_, u32>(column)?).map_err(|error| wrong(column, error))
}

fn wrong(column: usize, error: storage::Error) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(column, rusqlite::types::Type::Null, Box::new(error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_name_files_or_memory() {
        assert_eq!(Location::parse("sqlite://:memory:"), Ok(Location::Memory));
        assert_eq!(Location::parse("sqlite:///a/b.db"), Ok(Location::File("/a/b.db".into())));
        for bad in ["", "sqlite://", "sqlite:///", "sqlite://a.db", "/a.db", "mysql://a"] {
            assert!(Location::parse(bad).is_err(), "{bad}");
        }
    }
}
