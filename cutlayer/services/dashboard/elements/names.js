export default {
  template: `<datalist :id="list"><option v-for="name in names" :key="name" :value="name"></option></datalist>`,
  props: { list: String, names: Array },
};
