import type { AddressInfo, Server } from 'node:net';
import { LxstowError } from '../contract/errors.ts';

/** Listens, and returns the port. `key`: the configuration key of the port. Throws bad-config. */
export async function listen(server: Server, address: string, port: number, key: string): Promise<number> {
  try {
    await new Promise<void>((resolve, reject) => server.once('error', reject).listen(port, address, resolve));
  } catch (cause) {
    const { message } = cause as Error;
    throw new LxstowError('bad-config', `cannot listen on ${address} port ${port} (${key}): ${message}`, { cause });
  }
  return (server.address() as AddressInfo).port;
}
