/** The model of restores (restoreModel.ts): all but the replacing of what runs. */
import { model } from './restoreModel.ts';

model('a model of restores', [
  { name: 'a restore', body: {}, original: 'elsewhere' },
  { name: 'a restore that starts', body: { start: true }, original: 'elsewhere', from: 'POST /1.0/instances/' },
  {
    name: 'a replace of what is stopped',
    body: { replace: true },
    original: 'stopped',
    from: 'PATCH /1.0/instances/c1',
  },
]);
