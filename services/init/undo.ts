/** Takes back what `lxstow init` did. Never touches a backup, its folder or bucket, or keys; says where they are. */
import { existsSync } from 'node:fs';
import { readdir, rename, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { keptConfiguration } from './configurationFile.ts';
import type { InitRecord, Places } from './places.ts';
import { stopService } from './standaloneService.ts';

/** What lxstow writes into its state directory, except the keys of VersityGW. Only this is removed: everything else may be backups. packaging/deb/postrm has the same list. */
const ownFiles = ['nats', 'server.crt', 'server.key', 'lxstow.log', 'standalone.pid', 'standalone.pid.part'];
/** The folder in the state directory with the keys of VersityGW. */
const keysOfStore = 'store';

/** Returns what stays, a line each. */
export async function undo(places: Places, record: InitRecord): Promise<string[]> {
  await stopService(places, record.service, record.units);
  const kept = [`the backups: ${record.store}`];
  if (record.hadState)
    kept.push(`${record.state}, which was there before: trusted clients with this user, schedules, jobs`);
  else kept.push(...(await removeState(record.state)));
  const aside = `${places.config}.undone`;
  // An interrupted undo may already have restored the configuration from before init.
  const isBack = record.hadConfiguration && existsSync(aside) && !existsSync(keptConfiguration(places));
  if (existsSync(places.config) && !isBack) await rename(places.config, aside);
  if (existsSync(aside)) kept.push(`the configuration, with the keys of the store: ${aside}`);
  if (record.hadConfiguration && existsSync(keptConfiguration(places))) {
    await rename(keptConfiguration(places), places.config);
    kept.push(`the configuration that was there before: ${places.config}`);
  }
  if (existsSync(places.page)) kept.push(`the recovery page, with keys: ${places.page}`);
  await rm(places.record, { force: true });
  return kept;
}

async function removeState(state: string): Promise<string[]> {
  for (const name of ownFiles) await rm(join(state, name), { recursive: true, force: true });
  const keys = join(state, keysOfStore);
  const others = existsSync(state) ? (await readdir(state)).filter((name) => name !== keysOfStore) : [];
  return [
    ...(existsSync(keys) ? [`the keys of the store's server: ${keys}`] : []),
    ...(others.length > 0 ? [`what else is in ${state}: ${others.join(', ')}`] : []),
  ];
}
