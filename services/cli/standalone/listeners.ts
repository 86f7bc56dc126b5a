/** Finds out which users' programs listen on a port of this machine, from Linux. */
import { readFile } from 'node:fs/promises';

const listening = '0A';

/** Their user ids; none if the system does not say. Every address counts, because a program that listens on all addresses also answers on loopback. */
export async function usersListening(port: number): Promise<number[]> {
  const tables = ['tcp', 'tcp6'].map((name) => readFile(`/proc/self/net/${name}`, 'utf8').catch(() => ''));
  const rows = (await Promise.all(tables)).flatMap((table) => table.split('\n').slice(1));
  return rows.flatMap((row) => {
    const [, local = '', , state, , , , uid] = row.trim().split(/\s+/);
    const isIt = state === listening && Number.parseInt(local.split(':')[1] ?? '', 16) === port;
    return isIt ? [Number(uid)] : [];
  });
}
