/** `lxstow restore` */
import { type Exit, exits } from '../exit.ts';
import { exitOfAll, type Followed, follow, heedInterrupts, sayFailures } from '../follow.ts';
import { backupName, Gateways, type Place, suggesting } from '../names.ts';
import { type Format, print } from '../output.ts';
import { openProgress } from '../progress.ts';
import { printable } from '../table.ts';
import { sayLeft } from './backup.ts';

export interface RestoreOptions extends Place {
  as?: string;
  pool?: string;
  toProject?: string;
  toTarget?: string;
  start?: boolean;
  replace?: boolean;
  wait: boolean;
  quiet?: boolean;
  format: Format;
}

export async function restoreCommand(instance: string, wanted: string, options: RestoreOptions): Promise<Exit> {
  const { as, pool, toProject, toTarget, start, replace, wait, quiet, format } = options;
  using gateways = new Gateways();
  const where = await gateways.oneInstance(instance, options);
  const { gateway, place } = where;
  const body = {
    ...(as !== undefined && { name: as }),
    ...(pool !== undefined && { pool }),
    ...(toProject !== undefined && { project: toProject }),
    ...(toTarget !== undefined && { target: toTarget }),
    ...(start && { start }),
    ...(replace && { replace }),
  };
  const backup = await suggesting(where, undefined, () => backupName(where, wanted));
  const job: Followed = { label: as ?? where.instance, gateway };
  using interrupts = heedInterrupts(() => sayLeft([job]));
  job.operation = await suggesting(where, backup, () =>
    gateway.ask('POST', ['instances', where.instance, 'backups', backup], { body, query: place }),
  );
  {
    using progress = openProgress(quiet);
    if (interrupts.first.aborted || wait) await follow([job], progress, interrupts);
  }
  sayFailures([job]);
  const { operation } = job;
  for (const warning of operation?.metadata.warnings ?? [])
    process.stderr.write(`lxstow: ${job.label}: ${printable(warning)}\n`);
  const status = operation?.status ?? 'Failure';
  print(format, {
    heading: ['INSTANCE', 'BACKUP', 'STATUS', 'OPERATION'],
    rows: [[job.label, backup, status, operation?.id ?? '-']],
    raw: operation,
    empty: '',
  });
  return exitOfAll([job], interrupts) || exits.ok;
}
