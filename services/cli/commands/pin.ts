/** `lxstow pin` and `lxstow unpin`: a pinned backup is not deleted. */
import { backupName, Gateways, type Scope, suggesting } from '../client/names.ts';
import { type Exit, exits } from '../exit.ts';

interface Options extends Scope {
  hold?: boolean;
}

export async function pinCommand(text: string, names: string[], pinned: boolean, options: Options): Promise<Exit> {
  const hold = pinned && options.hold === true;
  using gateways = new Gateways();
  const where = await gateways.oneInstance(text, options);
  const { gateway, instance, scope } = where;
  for (const name of names) {
    const backup = await suggesting(where, undefined, () => backupName(where, name));
    await suggesting(where, backup, () =>
      gateway.ask('PATCH', ['instances', instance, 'backups', backup], {
        query: scope,
        body: { pinned, ...(hold && { held: true }) },
      }),
    );
    process.stdout.write(
      `${instance}/${backup} is ${hold ? 'pinned and held' : pinned ? 'pinned' : 'not pinned any more'}\n`,
    );
  }
  return exits.ok;
}
