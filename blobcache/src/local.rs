//! Chunks that are in the data file but cannot be handed out as they lie: encoded, or not yet checked.

use std::io;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use storage::blob::check_chunk;

use crate::blob::{Inner, Record};
use crate::error::Result;
use crate::fetch::{Key, Piece, Served};
use crate::flight::Leader;
use crate::shelf::{Form, Place};

/// Leads the flight of one chunk. Whatever goes wrong here only means that the chunk has to be fetched.
pub(crate) async fn lead(
    blob: Arc<Inner>,
    place: Place,
    record: Option<Record>,
    check: bool,
    leader: Leader<Key, Arc<Served>>,
) {
    let deadline = leader.deadline();
    let Ok(share) = blob.shared.budget(u64::from(place.size) * 2, deadline).await else {
        leader.answer(Err(blob.timed_out("memory to read the cache", Instant::now())));
        return;
    };
    let found = read(&blob, place, record, check, deadline).await;
    let metrics = &blob.shared.metrics;
    let piece = match found {
        Ok(Found::Right(bytes)) => {
            if check {
                metrics.cache_chunks_accepted.increment();
                blob.confirm(place.index);
            }
            Piece::Kept(bytes)
        }
        Ok(Found::Wrong(detail)) => {
            metrics.cache_chunks_rejected.increment();
            tracing::warn!(
                blob = %blob.description.id, chunk = place.index, detail,
                "cached chunk is wrong: fetched again"
            );
            blob.distrust(place.index);
            Piece::Absent
        }
        Ok(Found::Unreadable(error)) => {
            // Short files and holes are of crashes; they are nobody's error.
            if error.kind() != io::ErrorKind::UnexpectedEof {
                metrics.cache_read_errors.increment();
                tracing::warn!(blob = %blob.description.id, chunk = place.index, %error, "cannot read the cache");
            }
            blob.distrust(place.index);
            Piece::Absent
        }
        Ok(Found::Uncheckable) => {
            metrics.cache_chunks_rejected.increment();
            Piece::Absent
        }
        Err(error) => {
            tracing::debug!(blob = %blob.description.id, chunk = place.index, %error, "cached chunk not checked");
            Piece::Absent
        }
    };
    leader.answer(Ok(Arc::new(Served::one(place.index, piece))));
    drop(share);
}

enum Found {
    Right(Bytes),
    /// With what is wrong.
    Wrong(String),
    Unreadable(io::Error),
    /// Nothing is known that it could be checked with.
    Uncheckable,
}

async fn read(
    blob: &Arc<Inner>,
    place: Place,
    record: Option<Record>,
    check: bool,
    deadline: Instant,
) -> Result<Found> {
    let form = blob.shelf.form();
    let convergent = matches!(form, Form::Encrypted(encryption) if encryption.convergent);
    let digest = if check || convergent {
        blob.digests.of(blob, place, record.as_ref(), deadline).await?
    } else {
        None
    };
    // The unit says how raw chunks are decoded, and the checksum of chunks without a digest.
    let unit = if form == Form::Raw || (check && digest.is_none()) {
        let (units, _) = blob.units(&[(place, record)], deadline).await?;
        units.into_iter().next()
    } else {
        None
    };
    let checksum = unit.as_ref().and_then(|unit| unit.members.first()).and_then(|chunk| chunk.stored.crc32c);
    if check && digest.is_none() && checksum.is_none() {
        return Ok(Found::Uncheckable);
    }
    let reader = Arc::clone(blob);
    let raw = unit.filter(|_| form == Form::Raw);
    let range = raw.as_ref().map(|unit| (unit.offset, unit.len));
    let bytes = move || match range {
        Some((offset, len)) => {
            let mut stored = vec![0; len as usize];
            reader.shelf.read_at(offset, &mut stored).map(|()| stored)
        }
        None => reader.shelf.read_chunk(place, digest),
    };
    let bytes = match blob.shared.executor.disk.run(bytes).await? {
        Ok(bytes) => bytes,
        Err(error) => return Ok(Found::Unreadable(error)),
    };
    let description = Arc::clone(&blob.description);
    let judge = move || {
        let bytes = match raw {
            None => Bytes::from(bytes),
            Some(unit) => match unit.decode(&description, &bytes) {
                Ok(members) => members.into_iter().next().unwrap_or_default(),
                Err(error) => return Found::Wrong(error.to_string()),
            },
        };
        if !check {
            return Found::Right(bytes);
        }
        match check_chunk(&description, place.index, digest, checksum, &bytes) {
            Ok(true) => Found::Right(bytes),
            Ok(false) => Found::Uncheckable,
            Err(error) => Found::Wrong(error.to_string()),
        }
    };
    blob.shared.executor.decode.run(judge).await
}
