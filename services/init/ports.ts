/** Ports of this machine: which are free. LXD itself may listen on 8443. */
import { once } from 'node:events';
import { createServer } from 'node:net';

/** Of standalone's nats-server, unless `--nats-port` says another. */
export const usualNatsPort = 4222;

/** For each name its usual port, or the next free one after it. */
export async function freePorts<K extends string>(usual: Record<K, number>): Promise<Record<K, number>> {
  const taken = new Set<number>();
  const found = { ...usual };
  for (const name of Object.keys(usual) as K[]) {
    let port = usual[name];
    while (taken.has(port) || !(await isFree(port))) port += 1;
    taken.add(port);
    found[name] = port;
  }
  return found;
}

async function isFree(port: number): Promise<boolean> {
  const server = createServer();
  try {
    server.listen(port, '127.0.0.1');
    await once(server, 'listening');
    return true;
  } catch {
    return false;
  } finally {
    server.close();
  }
}
