/** Whose programs listen on a port of this machine, as Linux tells it. */
import { readFile } from 'node:fs/promises';

const listening = '0A';

/** User ids; none where the system does not tell. Every address counts: what listens on all of them answers on loopback, too. */
export async function usersListening(port: number): Promise<number[]> {
  const tables = ['tcp', 'tcp6'].map((name) => readFile(`/proc/self/net/${name}`, 'utf8').catch(() => ''));
  const rows = (await Promise.all(tables)).flatMap((table) => table.split('\n').slice(1));
  return rows.flatMap((row) => {
    const [, local = '', , state, , , , uid] = row.trim().split(/\s+/);
    const isIt = state === listening && Number.parseInt(local.split(':')[1] ?? '', 16) === port;
    return isIt ? [Number(uid)] : [];
  });
}
