//! What a thread does with a request from the kernel.
//!
//! Invariant: it never waits for data, so a few threads serve any number of waiting readers. A panic while a request is
//! served fails that request, not the thread.

use std::io;
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, mpsc};
use std::time::Instant;

use fuse_backend_rs::abi::fuse_abi::{InHeader, InterruptIn, Opcode, ReadIn};
use fuse_backend_rs::api::server::Server;
use fuse_backend_rs::transport::{FuseBuf, FuseDevWriter, Reader};
use nix::errno::Errno;
use tracing::{debug, error};

use super::adapter::Adapter;
use super::errno::take_failed;
use super::init::Agreement;
use super::read::Reads;
use super::reply::Reply;
use crate::filesystem::XattrSupport;
use crate::telemetry::metrics::{Operation, Tally};

pub(super) struct Worker {
    pub(super) server: Arc<Server<Adapter>>,
    pub(super) reads: Arc<Reads>,
    /// Counts the requests that this worker answers.
    pub(super) tally: Arc<Tally>,
    /// Told when the kernel's INIT has been answered.
    pub(super) initialised: mpsc::Sender<()>,
}

impl Worker {
    /// Serves one request; `answer` is room for what is answered at once.
    pub(super) fn serve(&self, request: &mut [u8], answer: &mut [u8]) {
        let Some(header) = header(request) else {
            error!("a request of {} bytes has no header", request.len());
            return;
        };
        self.tally.take(header.unique, header.opcode, header.nodeid);
        let served = catch_unwind(AssertUnwindSafe(|| self.dispatch(&header, request, answer)));
        self.tally.leave();
        if served.is_err() {
            error!("request {} (opcode {}) panicked", header.unique, header.opcode);
            Reply::new(self.reads.device.clone(), header.unique).error(Errno::EIO);
        }
    }

    fn dispatch(&self, header: &InHeader, request: &mut [u8], answer: &mut [u8]) {
        match header.opcode {
            opcode if opcode == Opcode::Read as u32 => match body(request, |r| r.read_obj::<ReadIn>()) {
                Some(wanted) => {
                    self.reads.serve(header.unique, header.nodeid, &wanted, answer, &self.tally);
                }
                None => Reply::new(self.reads.device.clone(), header.unique).error(Errno::EINVAL),
            },
            opcode if opcode == Opcode::Interrupt as u32 => {
                let interrupt = body(request, |r| r.read_obj::<InterruptIn>());
                if interrupt.is_some_and(|interrupt| !self.reads.parked.interrupt(interrupt.unique)) {
                    // EAGAIN: the kernel says it again, unless the request has been answered meanwhile.
                    Reply::new(self.reads.device.clone(), header.unique).error(Errno::EAGAIN);
                }
            }
            opcode if opcode == Opcode::Init as u32 => {
                let reply = Reply::new(self.reads.device.clone(), header.unique);
                // Without attributes there are no ACLs, and the kernel need not ask for those of each inode.
                let acls = self.reads.filesystem.xattr_support() == XattrSupport::Served;
                match Agreement::with(request, acls) {
                    Ok(agreement) => reply.data(&agreement.to_bytes()),
                    Err(errno) => reply.error(errno),
                }
                // Fails if nobody waits any more.
                let _ = self.initialised.send(());
            }
            opcode => {
                let began = Instant::now();
                take_failed();
                self.answer_at_once(request, answer);
                if let Some(operation) = operation(opcode) {
                    let failed = take_failed();
                    self.tally.answered(operation, failed, began.elapsed());
                    if let Some(files) = self.reads.operations.files() {
                        files.answered(self.reads.nodeids.ino(header.nodeid).0, operation, failed);
                    }
                }
            }
        }
    }

    fn answer_at_once(&self, request: &mut [u8], answer: &mut [u8]) {
        let reader = match Reader::<()>::from_fuse_buffer(FuseBuf::new(request)) {
            Ok(reader) => reader,
            Err(e) => return error!("request cannot be read: {e}"),
        };
        let writer = match FuseDevWriter::<()>::new(self.reads.device.as_raw_fd(), answer) {
            Ok(writer) => writer,
            Err(e) => return error!("answer cannot be written: {e}"),
        };
        if let Err(e) = self.server.handle_message(reader, writer.into(), None, None) {
            debug!("request not answered: {e}");
        }
    }
}

/// What a request asks for, if that is counted. READ is counted where it is served.
fn operation(opcode: u32) -> Option<Operation> {
    const COUNTED: [(Opcode, Operation); 14] = [
        (Opcode::Getattr, Operation::GetAttr),
        (Opcode::Readlink, Operation::ReadLink),
        (Opcode::Open, Operation::Open),
        (Opcode::Release, Operation::Release),
        (Opcode::Statfs, Operation::StatFs),
        (Opcode::Getxattr, Operation::GetXattr),
        (Opcode::Listxattr, Operation::ListXattr),
        (Opcode::Opendir, Operation::OpenDir),
        (Opcode::Lookup, Operation::Lookup),
        (Opcode::Readdir, Operation::ReadDir),
        (Opcode::Readdirplus, Operation::ReadDirPlus),
        (Opcode::Access, Operation::Access),
        (Opcode::Forget, Operation::Forget),
        (Opcode::BatchForget, Operation::BatchForget),
    ];
    COUNTED.iter().find(|(known, _)| *known as u32 == opcode).map(|(_, operation)| *operation)
}

fn header(request: &mut [u8]) -> Option<InHeader> {
    Reader::<()>::from_fuse_buffer(FuseBuf::new(request)).ok()?.read_obj().ok()
}

/// The part of a request behind its header.
fn body<T>(request: &mut [u8], read: impl FnOnce(&mut Reader<'_>) -> io::Result<T>) -> Option<T> {
    let mut reader = Reader::from_fuse_buffer(FuseBuf::new(request)).ok()?;
    reader.read_obj::<InHeader>().ok()?;
    read(&mut reader).ok()
}
