import { once } from 'node:events';
import { connect, createServer, type Server, type Socket } from 'node:net';
import type { Log } from './run.ts';

/**
 * Runs `work` while no other process of this machine runs some for the same `name`. The lock is a listening socket
 * with a name and no file, which the kernel takes back from a process that dies; only Linux has those, and elsewhere
 * nothing is locked.
 */
export async function withLock<T>(
  name: string,
  log: Log,
  signal: AbortSignal | undefined,
  work: () => Promise<T>,
): Promise<T> {
  if (process.platform !== 'linux') return work();
  const address = `\0lxstow-lab:${name}`;
  const waiting = new Set<Socket>();
  for (;;) {
    const server = await listen(address, waiting);
    if (server) {
      try {
        return await work();
      } finally {
        server.close();
        for (const socket of waiting) socket.destroy();
      }
    }
    log(`waiting for another process that is busy with ${name}`);
    await untilReleased(address, signal);
  }
}

/** Undefined when another process listens there. */
function listen(address: string, waiting: Set<Socket>): Promise<Server | undefined> {
  return new Promise((resolve, reject) => {
    const server = createServer((socket) => waiting.add(socket.on('error', () => waiting.delete(socket))));
    server.once('error', (error: NodeJS.ErrnoException) =>
      error.code === 'EADDRINUSE' ? resolve(undefined) : reject(error),
    );
    server.listen(address, () => resolve(server));
  });
}

/** The holder keeps its visitors' connections open until it is done or dead. */
async function untilReleased(address: string, signal: AbortSignal | undefined): Promise<void> {
  const socket = connect(address);
  socket.resume();
  try {
    await once(socket, 'close', { signal });
  } catch (error) {
    if (signal?.aborted) throw error;
    // Otherwise the lock was released in between: the connection was refused or reset.
  } finally {
    socket.destroy();
  }
}
